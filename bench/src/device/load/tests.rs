use super::*;
use crate::device::{Devices, Spec};

fn plan(workload: Workload, verify: bool) -> Plan {
    Plan {
        sizes: "512-8k".parse().unwrap(),
        workload,
        read_percent: 50,
        depth: 8,
        duration: Duration::from_millis(30),
        verify,
        seed: 7,
        stop: crate::interrupt::Interrupt::default(),
        pages: PageWish::Ordinary,
    }
}

fn core() -> usize {
    let available = reactor::sys::affinity::Available::now().unwrap();
    available.allowed.iter().next().unwrap()
}

fn run(plan: &Plan, devices: &[Arc<dyn Bdev>]) -> Result<Totals> {
    let shares = shares(devices, &[core()], false, u64::MAX)?;
    let mut ended = start(plan, &shares)?.join()?;
    assert_eq!(ended.len(), 1);
    let CoreTotals { totals, busy_ns, turns, .. } = ended.remove(0);
    assert!(busy_ns > 0 && turns > 0);
    Ok(totals)
}

#[test]
fn a_load_moves_what_it_counts() {
    let mut devices = Devices::new();
    let null = devices.make(&Spec::Null(1 << 20), 512).unwrap();
    let malloc = devices.make(&Spec::Malloc(1 << 20), 512).unwrap();
    let totals = run(&plan(Workload::RandRw, false), &[null, malloc]).unwrap();
    assert!(totals.reads.ios > 0 && totals.writes.ios > 0 && totals.errors == 0);
    assert_eq!(totals.reads.latency_ns.len(), totals.reads.ios);
    assert!(totals.elapsed >= Duration::from_millis(30));
}

#[test]
fn data_is_verified_and_what_keeps_none_is_found() {
    let mut devices = Devices::new();
    let malloc = devices.make(&Spec::Malloc(64 << 10), 512).unwrap();
    let totals = run(&plan(Workload::RandRw, true), &[malloc]).unwrap();
    assert!(totals.writes.ios > 0);
    assert_eq!(totals.errors, 0, "{:?}", totals.errors_shown);
    let null = devices.make(&Spec::Null(64 << 10), 512).unwrap();
    let totals = run(&plan(Workload::RandWrite, true), &[null]).unwrap();
    assert!(totals.errors > 0 && totals.errors_shown.len() <= ERRORS_SHOWN_MAX);
}

#[test]
fn what_can_not_run_is_refused() {
    let mut devices = Devices::new();
    let small = devices.make(&Spec::Null(4096), 4096).unwrap();
    let refused = |plan: &Plan| run(plan, std::slice::from_ref(&small)).unwrap_err().to_string();
    assert!(refused(&plan(Workload::RandRead, false)).contains("no multiple of its blocks"));
    let large = Plan { sizes: "8k".parse().unwrap(), ..plan(Workload::RandRead, false) };
    assert!(refused(&large).contains("does not fit"));
    assert!(refused(&plan(Workload::RandRead, true)).contains("nothing to compare"));
    assert!(refused(&Plan { depth: 0, ..large.clone() }).contains("queue depth"));
    assert!(run(&large, &[]).is_err());
}

#[test]
fn devices_are_divided_among_cores() {
    let mut devices = Devices::new();
    let made: Vec<_> = (0..3).map(|_| devices.make(&Spec::Null(64 << 10), 512).unwrap()).collect();
    let one_each = shares(&made, &[4, 5], false, u64::MAX).unwrap();
    let places = |shares: &[Share]| shares.iter().map(|s| (s.first, s.blocks)).collect::<Vec<_>>();
    assert_eq!(places(&one_each[0].1), [(0, 128), (0, 128)]);
    assert_eq!(places(&one_each[1].1), [(0, 128)]);
    let parts = shares(&made[..1], &[4, 5], true, 32 << 10).unwrap();
    assert_eq!((places(&parts[0].1), places(&parts[1].1)), (vec![(0, 32)], vec![(32, 32)]));
    assert_eq!(shares(&made[..1], &[4, 5], false, u64::MAX).unwrap().len(), 1);
}
