//! A device of memory whose "driver" blocks: the least that a device with a thread needs.

use std::sync::mpsc::{Sender, channel};

use reactor::{Batch, Instant};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::*;
use crate::contract::{self, Rig};
use crate::{Bdev, Geometry, Io, IoChannel, IoDone, IoOp, OpenError, contains};

const BLOCK_BYTES: u32 = 512;

/// Its thread does one operation after the other.
#[derive(Debug)]
struct Blocking {
    hub: Arc<Hub<IoOp, ()>>,
    blocks: u64,
    _thread: Thread<IoOp, ()>,
}

impl Blocking {
    /// `before` is called before each operation, and may take its time.
    fn new(blocks: u64, before: impl Fn() + Send + 'static) -> Blocking {
        let hub = Arc::new(Hub::new().unwrap());
        let mut ports = Ports::new(Arc::clone(&hub));
        let own = Arc::clone(&hub);
        let mut medium = vec![0; (blocks * u64::from(BLOCK_BYTES)) as usize];
        let run = move || {
            while !own.is_stopping() {
                ports.refresh();
                while let Some((port, Asked { tag, ask, mut buf })) = ports.next() {
                    before();
                    play(&mut medium, &ask, buf.as_mut());
                    ports.end(port, Ended { tag, status: IoStatus::Good, end: (), buf });
                }
                if ports.may_sleep(true) && !own.is_stopping() {
                    ports.sleep(std::iter::empty(), None);
                }
                ports.awake();
            }
        };
        let thread = Thread::start(&hub, "blocking", run).unwrap();
        Blocking { hub, blocks, _thread: thread }
    }
}

fn play(medium: &mut [u8], op: &IoOp, buf: Option<&mut Buf>) {
    let Some((lba, blocks)) = op.range() else { return };
    let [at, len] = [lba, blocks].map(|blocks| (blocks * u64::from(BLOCK_BYTES)) as usize);
    match (op, buf) {
        (IoOp::Read { .. }, Some(buf)) => buf.write_at(0, &medium[at..at + len]),
        (IoOp::Write { .. }, Some(buf)) => buf.read_at(0, &mut medium[at..at + len]),
        _ => medium[at..at + len].fill(0),
    }
}

impl Bdev for Blocking {
    fn name(&self) -> &str {
        "blocking"
    }

    fn product_name(&self) -> &'static str {
        "blocking"
    }

    fn uuid(&self) -> Uuid {
        Uuid::nil()
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            block_bytes: BLOCK_BYTES,
            blocks: self.blocks,
            physical_exponent: 0,
            buf_align: 1,
            write_cache: false,
            read_only: false,
            unmap: true,
            unmap_zeroes: true,
            unmap_granularity: BLOCK_BYTES,
            rotational: false,
        }
    }

    fn open_channel(&self, core: &mut CoreContext) -> Result<Box<dyn IoChannel>, OpenError> {
        let refused = Batch::new(core.depth as usize);
        Ok(Box::new(BlockingChannel { line: self.hub.open(core), blocks: self.blocks, refused }))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        Map::new()
    }

    fn module(&self) -> &'static str {
        "blocking"
    }

    fn options(&self) -> Value {
        Value::Null
    }
}

struct BlockingChannel {
    line: Line<IoOp, ()>,
    blocks: u64,
    refused: Batch<IoDone>,
}

impl IoChannel for BlockingChannel {
    fn submit(&mut self, io: Io) {
        io.assert_buf(BLOCK_BYTES);
        let Io { tag, op, buf } = io;
        match op.range() {
            Some((lba, blocks)) if !contains(self.blocks, lba, blocks) => {
                self.refused.push(IoDone { tag, status: IoStatus::OutOfRange, buf });
            }
            _ => self.line.push(Asked { tag, ask: op, buf }),
        }
    }

    fn flush(&mut self) {
        self.line.flush();
    }

    fn poll(&mut self, _now: Instant, done: &mut Batch<IoDone>) {
        while !done.is_full() {
            let ended = |Ended { tag, status, buf, .. }| IoDone { tag, status, buf };
            let item = self.refused.pop().or_else(|| self.line.pop().map(ended));
            let Some(item) = item else { break };
            done.push(item);
        }
    }

    fn arm(&mut self) -> bool {
        self.line.arm() && self.refused.is_empty()
    }
}

#[test]
fn a_device_whose_driver_blocks_obeys_the_contract() {
    contract::every_rule(&Blocking::new(8192, || {}), 21);
}

#[test]
fn channels_take_turns() {
    let hub: Arc<Hub<u32, ()>> = Arc::new(Hub::new().unwrap());
    let memory = Arc::new(Memory::ordinary(4096).unwrap());
    let core = CoreContext { memory, ring: None, depth: 4, wake: None };
    let mut lines = [hub.open(&core), hub.open(&core)];
    let mut ports = Ports::new(Arc::clone(&hub));
    for (line, asks) in lines.iter_mut().zip([[1, 2, 3], [11, 12, 13]]) {
        for (index, ask) in asks.into_iter().enumerate() {
            line.push(Asked { tag: Tag::new(index as u32, 1), ask, buf: None });
        }
        assert!(!line.arm(), "the thread knows nothing of what was not flushed");
        line.flush();
    }
    ports.refresh();
    assert!(!ports.may_sleep(true) && ports.may_sleep(false));
    ports.awake();
    let mut order = Vec::new();
    while let Some((port, Asked { tag, ask, buf })) = ports.next() {
        order.push(ask);
        ports.end(port, Ended { tag, status: IoStatus::Good, end: (), buf });
    }
    order[..].chunks_mut(2).for_each(<[u32]>::sort_unstable);
    assert_eq!(order, [1, 11, 2, 12, 3, 13]);
    assert!(!lines[0].arm(), "something has ended");
    assert_eq!(std::iter::from_fn(|| lines[0].pop()).count(), 3);
    assert!(lines[0].arm());
    // One that is closed is forgotten when nothing of it is left.
    lines[1].push(Asked { tag: Tag::new(0, 2), ask: 14, buf: None });
    drop(lines);
    ports.refresh();
    let (port, last) = ports.next().expect("what was pushed before the end");
    assert_eq!(last.ask, 14);
    ports.end(port, Ended { tag: last.tag, status: IoStatus::Good, end: (), buf: None });
    ports.refresh();
    assert!(ports.next().is_none() && ports.ports.is_empty());
}

#[test]
fn a_thread_that_its_driver_holds_holds_up_no_end() {
    let (go, gate): (Sender<()>, Receiver<()>) = channel();
    let (begun, begins) = channel();
    let device = Blocking::new(8, move || {
        begun.send(()).unwrap();
        // An error is the end of the test.
        let _ = gate.recv();
    });
    let mut rig = Rig::new(&device, 2, 4096);
    rig.submit(IoOp::Flush, None);
    assert!(rig.wait_turns(1).is_none());
    begins.recv().unwrap();
    drop(device);
    go.send(()).unwrap();
    assert_eq!(rig.wait().status, IoStatus::Good);
    rig.drain();
}
