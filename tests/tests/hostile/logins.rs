//! Logins that are refused, flood, or are left half done; and peers that listen to nobody.

use rustix::fs::SealFlags;
use serde_json::json;
use srpt_tests::hostile::{Peer, Refused, connect, dial, hello, memory, say, told};
use srpt_tests::process::PATIENCE;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use transport::rdma::{ListenerOptions, RdmaHalfOpen};
use transport::srp::{DataDesc, LoginRej, LoginReq, RejectReason};

use crate::rig::{Case, LUNS, Rig, both, check, good, rdma, read, ready, shm};

pub(crate) const CASES: &[Case] = &[
    shm("handshakes that are none", garbage, "logins that are none instead"),
    rdma("logins that are none", no_login, "handshakes that are none instead"),
    both("logins at and beyond the limits", refused),
    both("channels of a session at and above 64", channels),
    both("a flood of logins", flood),
    shm("half-open logins", half_open, "logins that are never established instead"),
    rdma("logins that are never established", unestablished, "half-open logins instead"),
    shm("floods of connects without a word", silent_floods, "a connect carries its login"),
    shm("a peer that never takes its responses", deaf_to_its_ring, "without receives instead"),
    rdma("a peer that posts no receives", deaf, "never takes its responses instead"),
    shm("responses at the shortest length", short_responses, "it is set before the listener"),
];

/// Lines that a flood of any size may log at a time, and in a second.
const LINES_MAX: usize = 160;
const LINES_A_SECOND_MAX: usize = 30;

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
        let socket = dial(rig.way.path());
        let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        say(&socket, &bytes, &files);
        let said = String::from_utf8_lossy(&told(&socket).0).into_owned();
        assert!(said.starts_with("SRPTSHM\n") && said.contains(why), "{why:?} in {said:?}");
        assert_eq!(told(&socket).0, b"", "the connection ends");
    }
    "told it what is wrong, closed it".into()
}

/// Private data of a connection request that is no login, or one cut short.
fn no_login(rig: &Rig) -> String {
    let mut request = [0; LoginReq::LEN_IB];
    rig.login().emit(&mut request);
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], &[0xFF; 56], &request[..40], &[]] {
        let refused = Peer::with_request(&rig.way, bytes).map(|_| ());
        assert!(matches!(refused, Err(Refused::Rejected(_) | Refused::Error(_))), "{refused:?}");
    }
    "rejected them".into()
}

/// Rules 5 and 10: a login that is refused says why and leaves nothing.
fn refused(rig: &Rig) -> String {
    let with = |change: &dyn Fn(&mut LoginReq)| {
        let mut login = rig.login();
        change(&mut login);
        Peer::login(&rig.way, &login).map(|_| ())
    };
    for len in [64, 8276] {
        assert_eq!(with(&|login| login.req_it_iu_len = len), Ok(()));
    }
    let rejected = if rig.is_rdma() { 6 } else { 8 };
    rig.counted(&[("login_rejected", rejected)], || {
        let too_large = Err(Refused::Rejected(RejectReason::ItIuTooLarge));
        for len in [0, 63, 8277, u32::MAX] {
            assert_eq!(with(&|login| login.req_it_iu_len = len), too_large);
        }
        let nobody = Err(Refused::Rejected(RejectReason::UnableToAssociate));
        for id in [[1; 16], [0xFF; 16]] {
            assert_eq!(with(&|login| login.target_port_id = id), nobody);
        }
        // RDMA/CM carries as many bytes as it does.
        for len in [63, 65].into_iter().filter(|_| !rig.is_rdma()) {
            let (socket, file) = (dial(rig.way.path()), memory(4096, SealFlags::SHRINK));
            say(&socket, &hello(1, 1, &vec![0; len]), &[file.as_fd()]);
            let (bytes, _) = told(&socket);
            let rej = LoginRej::parse(&bytes[20..]);
            assert!(bytes[12] == 3 && rej.is_ok(), "no reason of the standard: {bytes:x?}");
        }
    });
    "took 64 and 8276 bytes, rejected others with a reason".into()
}

fn channels(rig: &Rig) -> String {
    let mut login = rig.login();
    let mut first = Peer::login(&rig.way, &login).expect("the first channel");
    login.req_flags |= LoginReq::FLAG_MULTI;
    let mut more: Vec<Peer> =
        (1..64).map(|_| Peer::login(&rig.way, &login).expect("another channel")).collect();
    rig.counted(&[("login_rejected", 1)], || {
        let refused = Err(Refused::Rejected(RejectReason::ChannelLimit));
        assert_eq!(Peer::login(&rig.way, &login).map(|_| ()), refused);
    });
    assert!(!first.ended() && more.iter_mut().all(|peer| !peer.ended()));
    drop((first, more));
    rig.only_the_good_session_is_left();
    "took 64, rejected the next: channel limit".into()
}

fn flood(rig: &Rig) -> String {
    let each = if rig.is_rdma() { 25 } else { 150 };
    let (began, before) = (Instant::now(), rig.log_lines());
    for _ in 0..each {
        drop(Peer::login(&rig.way, &rig.login()).expect("a login"));
        let mut wrong = rig.login();
        wrong.req_it_iu_len = 1;
        assert!(Peer::login(&rig.way, &wrong).is_err());
        if rig.is_rdma() {
            assert!(Peer::with_request(&rig.way, b"nonsense").is_err());
        } else {
            say(&dial(rig.way.path()), b"nonsense", &[]);
        }
    }
    rig.only_the_good_session_is_left();
    let lines = rig.log_lines() - before;
    let seconds = began.elapsed().as_secs() as usize + 1;
    assert!(
        lines <= LINES_MAX + LINES_A_SECOND_MAX * seconds,
        "{lines} lines for {} logins",
        3 * each
    );
    format!("answered {}, logged {lines} lines", 3 * each)
}

/// A login of an initiator port that nobody has had.
fn request(rig: &Rig) -> [u8; LoginReq::LEN_IB] {
    let mut request = [0; LoginReq::LEN_IB];
    rig.login().emit(&mut request);
    request
}

fn half_open(rig: &Rig) -> String {
    let silent: Vec<OwnedFd> = (0..300).map(|_| dial(rig.way.path())).collect();
    // Logged in by its own account, but never there to hear it.
    let file = memory(4096, SealFlags::SHRINK);
    let request = request(rig);
    let deaf: Vec<OwnedFd> = (0..20)
        .map(|_| {
            let socket = dial(rig.way.path());
            say(&socket, &hello(1, 1, &request), &[file.as_fd()]);
            socket
        })
        .collect();
    good(&rig.peer().run(&ready(1)));
    assert_eq!(told(&silent[0]).0, b"", "the oldest silent one makes room");
    drop((silent, deaf));
    "dropped the oldest silent ones, let a good one in".into()
}

/// More logins than may be half open, whose peer never takes the answers: each login beyond them
/// ends the oldest, and so does a good one.
fn unestablished(rig: &Rig) -> String {
    const MORE: usize = 10;
    let half_open_max = ListenerOptions::default().half_open_max;
    let port = rig.way.port();
    let mut logins: Vec<RdmaHalfOpen> = (0..half_open_max + MORE)
        .map(|_| port.half_open(&request(rig), rig.number() as u32))
        .collect();
    good(&rig.peer().run(&ready(1)));
    let (oldest, others) = logins.split_at_mut(MORE + 1);
    rig.target.process.until("the oldest make room", PATIENCE, || {
        oldest.iter_mut().all(RdmaHalfOpen::ended).then_some(())
    });
    let ended = others.iter_mut().filter_map(|login| login.ended().then_some(())).count();
    assert_eq!(ended, 0, "of the {} others", others.len());
    drop(logins);
    format!("dropped the oldest {} of {}, let a good one in", MORE + 1, half_open_max + MORE)
}

/// Three that connect as fast as they can and say nothing: logins beside them all get through.
fn silent_floods(rig: &Rig) -> String {
    let (stop, file) = (AtomicBool::new(false), memory(4096, SealFlags::SHRINK));
    let path = rig.way.path();
    let flood = || {
        let mut silent = VecDeque::new();
        while !stop.load(Ordering::Relaxed) {
            silent.push_back(connect(path));
            silent.drain(..silent.len().saturating_sub(200));
        }
    };
    std::thread::scope(|scope| {
        (0..3).for_each(|_| _ = scope.spawn(flood));
        for _ in 0..20 {
            let socket = connect(path);
            say(&socket, &hello(1, 1, &request(rig)), &[file.as_fd()]);
            let (answer, _) = told(&socket);
            assert_eq!(answer.get(12), Some(&2), "no ACCEPT: {answer:x?}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    "let 20 of 20 good ones in beside three floods".into()
}

fn deaf_to_its_ring(rig: &Rig) -> String {
    let number = rig.number();
    let mut peer = Peer::ready(&rig.way, number, 2);
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
    while peer.shm().chatter(&[0; 1000]) {}
    assert_eq!(rig.channel(number, "req_lim"), Some(129));
    assert!(!peer.ended());
    "answered into its ring, over its own responses".into()
}

/// A connector has 256 receives; what is sent beyond them waits in the target's send queue.
fn deaf(rig: &Rig) -> String {
    let number = rig.number();
    let mut peer = Peer::ready(&rig.way, number, LUNS);
    let mut sent = rig.channel(number, "commands").expect("its session");
    peer.rdma().go_deaf();
    for _ in 0..3 {
        for tag in 0..100 {
            peer.send(&ready(tag));
        }
        sent += 100;
        rig.target.process.until("all are answered", PATIENCE, || {
            peer.take();
            (rig.channel(number, "commands") == Some(sent)).then_some(())
        });
    }
    let waiting = rig.channel(number, "in_flight").expect("its session");
    assert!((1..=100).contains(&waiting), "{waiting} responses wait");
    good(&rig.peer().run(&ready(1)));
    assert!(!peer.ended());
    drop(peer);
    rig.only_the_good_session_is_left();
    "kept what found no receive, let it go with the peer".into()
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
