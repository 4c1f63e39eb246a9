//! Logins that are refused, flood, or are left half done; and peers that listen to nobody.

use rustix::fs::SealFlags;
use serde_json::json;
use srpt_tests::hostile::{Peer, Refused, dial, hello, login, memory, say, told};
use srpt_tests::process::PATIENCE;
use std::os::fd::{AsFd, OwnedFd};
use transport::srp::{DataDesc, LoginRej, LoginReq, RejectReason};

use crate::rig::{Case, Rig, check, good, read, ready};

pub const CASES: &[Case] = &[
    ("handshakes that are none", garbage),
    ("logins at and beyond the limits", refused),
    ("channels of a session at and above 64", channels),
    ("a flood of logins", flood),
    ("half-open logins", half_open),
    ("a peer that never takes its responses", deaf),
    ("responses at the shortest length", short_responses),
];

/// Lines that a flood of any size may log at a time.
const LINES_MAX: usize = 160;

fn garbage(rig: &Rig) -> String {
    let (good, open) = (memory(8192, SealFlags::SHRINK), memory(8192, SealFlags::GROW));
    let none: &[&OwnedFd] = &[];
    let login = [0; 64];
    for (bytes, files, why) in [
        (b"GET / HTTP/1.1\r\n".to_vec(), none, "handshake"),
        (vec![0xFF; 3000], none, "handshake"),
        (hello(99, 1, &login), &[&good][..], "version"),
        (hello(1, 1, &login)[..30].to_vec(), &[&good], "malformed"),
        (hello(1, 2, &login), &[&good], "descriptors"),
        (hello(1, 1, &login), none, "descriptors"),
        (hello(1, 0, &login), none, "regions"),
        (hello(1, 17, &login), &[&good; 17], "regions"),
        (hello(1, u32::MAX, &login), &[&good], "regions"),
        (hello(1, 1, &[]), &[&good], "login"),
        (hello(1, 1, &login), &[&open], "seal"),
    ] {
        let socket = dial(&rig.socket);
        let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        say(&socket, &bytes, &files);
        let said = String::from_utf8_lossy(&told(&socket).0).into_owned();
        assert!(said.starts_with("SRPTSHM\n") && said.contains(why), "{why:?} in {said:?}");
        assert_eq!(told(&socket).0, b"", "the connection ends");
    }
    "told it what is wrong, closed it".into()
}

/// Rules 5 and 10: a login that is refused says why and leaves nothing.
fn refused(rig: &Rig) -> String {
    let with = |change: &dyn Fn(&mut LoginReq)| {
        let mut login = login(rig.number());
        change(&mut login);
        Peer::login(&rig.socket, &login).map(|_| ())
    };
    for len in [64, 8276] {
        assert_eq!(with(&|login| login.req_it_iu_len = len), Ok(()));
    }
    rig.counted(&[("login_rejected", 8)], || {
        let too_large = Err(Refused::Rejected(RejectReason::ItIuTooLarge));
        for len in [0, 63, 8277, u32::MAX] {
            assert_eq!(with(&|login| login.req_it_iu_len = len), too_large);
        }
        let nobody = Err(Refused::Rejected(RejectReason::UnableToAssociate));
        for id in [[1; 16], [0xFF; 16]] {
            assert_eq!(with(&|login| login.target_port_id = id), nobody);
        }
        for len in [63, 65] {
            let (socket, file) = (dial(&rig.socket), memory(4096, SealFlags::SHRINK));
            say(&socket, &hello(1, 1, &vec![0; len]), &[file.as_fd()]);
            let (bytes, _) = told(&socket);
            let rej = LoginRej::parse(&bytes[20..]);
            assert!(bytes[12] == 3 && rej.is_ok(), "no reason of the standard: {bytes:x?}");
        }
    });
    "took 64 and 8276 bytes, rejected others with a reason".into()
}

fn channels(rig: &Rig) -> String {
    let mut login = login(rig.number());
    let first = Peer::login(&rig.socket, &login).expect("the first channel");
    login.req_flags |= LoginReq::FLAG_MULTI;
    let more: Vec<Peer> =
        (1..64).map(|_| Peer::login(&rig.socket, &login).expect("another channel")).collect();
    rig.counted(&[("login_rejected", 1)], || {
        let refused = Err(Refused::Rejected(RejectReason::ChannelLimit));
        assert_eq!(Peer::login(&rig.socket, &login).map(|_| ()), refused);
    });
    assert!(!first.ended() && more.iter().all(|peer| !peer.ended()));
    drop((first, more));
    rig.only_the_good_session_is_left();
    "took 64, rejected the next: channel limit".into()
}

fn flood(rig: &Rig) -> String {
    const EACH: usize = 150;
    let before = rig.log_lines();
    for _ in 0..EACH {
        drop(Peer::login(&rig.socket, &login(rig.number())).expect("a login"));
        let mut wrong = login(rig.number());
        wrong.req_it_iu_len = 1;
        assert!(Peer::login(&rig.socket, &wrong).is_err());
        let socket = dial(&rig.socket);
        say(&socket, b"nonsense", &[]);
    }
    rig.only_the_good_session_is_left();
    let lines = rig.log_lines() - before;
    assert!(lines <= LINES_MAX, "{lines} lines for {} logins", 3 * EACH);
    format!("answered {}, logged {lines} lines", 3 * EACH)
}

fn half_open(rig: &Rig) -> String {
    let silent: Vec<OwnedFd> = (0..100).map(|_| dial(&rig.socket)).collect();
    // Logged in by its own account, but never there to hear it.
    let file = memory(4096, SealFlags::SHRINK);
    let mut request = [0; LoginReq::LEN_IB];
    login(rig.number()).emit(&mut request);
    let deaf: Vec<OwnedFd> = (0..20)
        .map(|_| {
            let socket = dial(&rig.socket);
            say(&socket, &hello(1, 1, &request), &[file.as_fd()]);
            socket
        })
        .collect();
    good(&rig.peer().run(&ready(1)));
    assert_eq!(told(&silent[0]).0, b"", "the oldest silent one makes room");
    drop((silent, deaf));
    "dropped the oldest silent ones, let a good one in".into()
}

fn deaf(rig: &Rig) -> String {
    let number = rig.number();
    let mut peer = Peer::ready(&rig.socket, number, 2);
    let mut sent = rig.channel(number, "commands").expect("its session");
    // More than the ring has room for.
    for _ in 0..6 {
        for tag in 0..100 {
            peer.send(&ready(tag));
        }
        sent += 100;
        rig.target.process.until("all are answered", PATIENCE, || {
            (rig.channel(number, "commands") == Some(sent)).then_some(())
        });
    }
    while peer.chatter(&[0; 1000]) {}
    assert_eq!(rig.channel(number, "req_lim"), Some(129));
    assert!(!peer.ended());
    "answered into its ring, over its own responses".into()
}

/// Rule 6: sense data fits the response, whatever was configured.
fn short_responses(rig: &Rig) -> String {
    rig.target.refused("srpt_set_options", json!({ "srp_max_rsp_size": 53 }));
    rig.target.rpc("srpt_set_options", json!({ "srp_max_rsp_size": 54 }));
    let mut peer = rig.peer();
    let reply = peer.run(&read(1, &[0xFF; 16], DataDesc::None));
    check(&reply, Some((5, 0x20, 0)));
    assert_eq!((peer.agreed.max_ti_iu_len, reply.bytes.len()), (54, 54));
    rig.target.rpc("srpt_set_options", json!({ "srp_max_rsp_size": 256 }));
    "sent 54 bytes with sense data; 53 can't be configured".into()
}
