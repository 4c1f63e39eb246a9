//! Signals that stop no target: the target goes on, and its end leaves nothing behind.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, prlimit};
use srpt_tests::process::{Initiator, Target, lun, sense};

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_hangup_and_the_users_signals_do_nothing_but_a_line_in_the_log() {
    let mut target = Target::start();
    target.null_bdev("Null0");
    target.export(&["Null0"]);
    let mut initiator = Initiator::login(&target.srp_socket(), 1, 1);
    initiator.ready(1);
    for (signal, name) in
        [(Signal::HUP, "SIGHUP"), (Signal::USR1, "SIGUSR1"), (Signal::USR2, "SIGUSR2")]
    {
        // Twice: what was heard once is heard again.
        for lines in 1..=2 {
            target.process.signal(signal);
            target.process.until(name, LIMIT, || {
                let ignored = format!("{name} is ignored");
                (target.process.err().matches(&ignored).count() == lines).then_some(())
            });
        }
    }
    initiator.scsi().read(lun(0), 0, 1, &mut [0; 512]).expect("its sessions go on");
    target.process.signal(Signal::TERM);
    target.process.succeed(LIMIT);
    assert!(!target.srp_socket().exists() && !target.path("rpc.sock").exists());
}

#[test]
fn a_write_beyond_the_limit_of_a_files_size_is_no_end_and_neither_is_a_broken_pipe() {
    let target = Target::start();
    target.file_bdev("File0", 4);
    target.export(&["File0"]);
    let mut initiator = Initiator::login(&target.srp_socket(), 1, 1);
    let mut scsi = initiator.ready(1);
    let limit = Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) };
    prlimit(Some(target.process.pid()), Resource::Fsize, limit).expect("a lower limit");
    let beyond = scsi.write(lun(0), 4096, 1, &[7; 512], false);
    assert_eq!(sense(beyond), (7, 0x27, 7), "no space");
    target.process.signal(Signal::XFSZ);
    target.process.signal(Signal::PIPE);
    scsi.write(lun(0), 0, 1, &[7; 512], false).expect("below the limit");
    target.rpc("spdk_get_version", serde_json::Value::Null);
}
