//! A target in the tests' hands: links that record what is sent and deliver what the test says.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::{ConnectError, Connector, DataMemory, Link, LinkError};
use crate::RemoteSeg;

/// Makes the answers to a sent IU.
pub(crate) type Script = Box<dyn FnMut(&[u8]) -> Vec<Vec<u8>>>;

#[derive(Default)]
pub(crate) struct FakeLink {
    pub sent: Vec<Vec<u8>>,
    pub arriving: VecDeque<Vec<u8>>,
    /// Sends fail with this many taken.
    pub sends_max: Option<usize>,
    pub closed: bool,
    pub flushes: usize,
    pub script: Option<Script>,
}

impl Link for FakeLink {
    fn send(&mut self, iu: &[u8]) -> Result<(), LinkError> {
        if self.sends_max == Some(self.sent.len()) {
            return Err(LinkError::Full);
        }
        self.sent.push(iu.to_vec());
        if let Some(script) = &mut self.script {
            self.arriving.extend(script(iu));
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        self.flushes += 1;
        Ok(())
    }

    fn poll(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<usize, LinkError> {
        let arrived = self.arriving.len();
        self.arriving.drain(..).for_each(|iu| each(&iu));
        if self.closed { Err(LinkError::Closed) } else { Ok(arrived) }
    }
}

#[derive(Clone)]
pub(crate) struct FakeMemory(pub Rc<RefCell<Vec<u8>>>);

impl FakeMemory {
    pub(crate) fn new(bytes: usize) -> Self {
        FakeMemory(Rc::new(RefCell::new(vec![0; bytes])))
    }
}

impl DataMemory for FakeMemory {
    fn len(&self) -> usize {
        self.0.borrow().len()
    }

    fn seg(&self, offset: usize, len: u32) -> RemoteSeg {
        assert!(offset + len as usize <= self.len());
        RemoteSeg { addr: offset as u64, key: 7, len }
    }

    fn read_at(&self, offset: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.0.borrow()[offset..offset + to.len()]);
    }

    fn write_at(&self, offset: usize, from: &[u8]) {
        self.0.borrow_mut()[offset..offset + from.len()].copy_from_slice(from);
    }
}

/// Answers logins in order with what it was made with.
pub(crate) struct FakeConnector {
    pub requests: RefCell<Vec<Vec<u8>>>,
    pub answers: RefCell<VecDeque<Result<Vec<u8>, ConnectError>>>,
}

impl Connector for FakeConnector {
    type Link = FakeLink;
    type Memory = FakeMemory;

    fn memory(&self, bytes: usize) -> Result<FakeMemory, ConnectError> {
        Ok(FakeMemory::new(bytes))
    }

    fn connect(
        &self,
        login_req: &[u8],
        _memory: &FakeMemory,
        _timeout: Duration,
    ) -> Result<(FakeLink, Vec<u8>), ConnectError> {
        self.requests.borrow_mut().push(login_req.to_vec());
        let answer = self.answers.borrow_mut().pop_front().expect("a scripted answer")?;
        Ok((FakeLink::default(), answer))
    }
}
