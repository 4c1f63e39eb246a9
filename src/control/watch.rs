//! Looks at the media behind the bdevs: a file that grew, a disk that is gone or back. All are
//! looked at each second, and one at once when a core asks, because its device fails.
//!
//! A look may take as long as a sick device wants. So lookers, threads of their own, take the media
//! of a round one after the other off one list; a looker that is stuck keeps one medium, and at the
//! next round another looker goes on with the rest. There are [`LOOKERS_MAX`]: that many media may
//! be stuck before a further one hides the others. The control thread only fills the list and gets
//! what was found.
//!
//! One look at a device is one or two system calls a second. Nothing here runs on a core.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bdev::Bdev;
use bdev::registry::Registry;
use bdev::uring::Uring;

use super::bdevs;
use super::desk::{Desk, Post};
use crate::shard::message::{Action, Ask};
use crate::shard::names::CoreId;

/// Pause between two looks at all devices.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How often a core may have one medium looked at: a device may fail each of its operations.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Lookers at a time.
const LOOKERS_MAX: usize = 32;

/// The media that are to be looked at.
#[derive(Clone, Default)]
struct Round(Arc<Mutex<List>>);

#[derive(Default)]
struct List {
    media: VecDeque<Weak<Uring>>,
    /// What lookers have in hand.
    in_hand: Vec<Weak<Uring>>,
    lookers: usize,
}

impl Round {
    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a new round; what is being looked at since the last one is left alone. True: one
    /// more looker is needed, because all that there are keep one medium each.
    fn begin(&self, media: Vec<Weak<Uring>>) -> bool {
        let mut list = self.list();
        let is_free = |medium: &Weak<Uring>| !list.in_hand.iter().any(|other| other.ptr_eq(medium));
        list.media = media.into_iter().filter(is_free).collect();
        let is_needed = !list.media.is_empty() && list.lookers < LOOKERS_MAX;
        list.lookers += usize::from(is_needed);
        is_needed
    }

    /// Looks at a medium next, without waiting for the next round. True: one more looker is needed.
    fn ask(&self, medium: Weak<Uring>) -> bool {
        let mut list = self.list();
        if list.media.iter().chain(&list.in_hand).any(|other| other.ptr_eq(&medium)) {
            return false;
        }
        list.media.push_front(medium);
        let is_needed = list.lookers == list.in_hand.len() && list.lookers < LOOKERS_MAX;
        list.lookers += usize::from(is_needed);
        is_needed
    }

    /// A core asks. The core hears of an answer after [`LOOK_INTERVAL`], and asks again then.
    fn on_ask(&self, desk: &Desk, core: CoreId, ask: Ask) {
        let Ask::LookAt { bdev } = ask;
        let named = |of: &Weak<Uring>| of.upgrade().is_some_and(|medium| medium.name() == bdev);
        // Inside, because the last holder of a medium closes it.
        let medium = desk.with(|control| media(control.bdevs()).into_iter().find(named));
        // Others, such as SCSI devices, look after their media themselves.
        if let Some(medium) = medium
            && self.ask(medium)
        {
            self.hire(desk.post());
        }
        let own = desk.clone();
        desk.spawn(async move {
            own.until(Instant::now() + LOOK_INTERVAL).await;
            own.tell(core, &Action::Looked { bdev });
        });
    }

    /// Hires a looker that was found to be needed.
    fn hire(&self, post: &Post) {
        let (own, post) = (self.clone(), post.clone());
        let looker = move || own.look(&post);
        let hired = std::thread::Builder::new().name("looker".to_owned()).spawn(looker);
        if let Err(error) = hired {
            self.list().lookers -= 1;
            tracing::warn!("no thread to look at files and disks with: {error}");
        }
    }

    /// Takes the next medium in hand. The looker ends when there is none.
    fn next(&self) -> Option<Arc<Uring>> {
        let mut list = self.list();
        while let Some(medium) = list.media.pop_front() {
            if let Some(uring) = medium.upgrade() {
                list.in_hand.push(medium);
                return Some(uring);
            }
        }
        list.lookers -= 1;
        None
    }

    fn done(&self, medium: &Arc<Uring>) {
        self.list().in_hand.retain(|other| other.as_ptr() != Arc::as_ptr(medium));
    }

    fn look(&self, post: &Post) {
        while let Some(medium) = self.next() {
            let change = medium.look();
            self.done(&medium);
            let Some(change) = change else { continue };
            let name = medium.name().to_owned();
            // This may be the last holder of a deleted bdev.
            drop(medium);
            let bring = |desk: Desk| async move {
                if let Err(error) = bdevs::medium_changed(&desk, &name, &change).await {
                    tracing::warn!("bdev {name}: initiators may not notice {change:?}: {error}");
                }
            };
            post.begin(bring, drop);
        }
    }
}

/// The devices whose medium can change by itself.
fn media(bdevs: &Registry) -> Vec<Weak<Uring>> {
    bdevs.all_of().map(|uring| Arc::downgrade(&uring)).collect()
}

/// Looks at all media every `interval`, as long as the control thread runs.
pub async fn watch(desk: Desk, interval: Duration) {
    let round = Round::default();
    let mut next = Instant::now() + interval;
    loop {
        match desk.asks().take() {
            Ok((core, ask)) => round.on_ask(&desk, core, ask),
            // Either there is a question then, or it is time for the next round.
            Err(asked) => {
                let wait = next.saturating_duration_since(Instant::now());
                let _ = desk.within(wait, asked).await;
            }
        }
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + interval;
        let media = desk.with(|control| media(control.bdevs()));
        if round.begin(media) {
            round.hire(desk.post());
        }
    }
}

#[cfg(test)]
mod tests {
    use bdev::registry::Registry;
    use bdev::uring::UringOptions;

    use super::*;

    #[test]
    fn a_medium_that_is_stuck_hides_no_other_one() {
        let files: Vec<_> = (0..3)
            .map(|_| {
                let file = tempfile::NamedTempFile::new().expect("a file");
                file.as_file().set_len(1 << 20).expect("room");
                file
            })
            .collect();
        let mut bdevs = Registry::with_host("test host");
        for file in &files {
            let options = UringOptions::new(&file.path().to_string_lossy());
            bdevs.create(options).expect("a bdev");
        }
        let round = Round::default();
        assert!(round.begin(media(&bdevs)));
        let stuck = round.next().expect("the first medium");
        // The looker that has it does not come back: the next round has one for the others.
        assert!(round.begin(media(&bdevs)));
        for _ in 0..2 {
            let medium = round.next().expect("another medium");
            assert_ne!(medium.name(), stuck.name());
            round.done(&medium);
        }
        assert!(round.next().is_none());
        round.done(&stuck);
        assert!(round.begin(media(&bdevs)));
        assert_eq!(round.next().expect("the first medium").name(), stuck.name());
    }
}
