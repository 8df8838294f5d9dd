//! A bell that is rung once, for all who listen: what tells thousands of connections to end, at a few bytes for each.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use slab::Slab;

/// Places that an empty bell keeps.
const KEPT: usize = 64;

/// Silent, then rung for ever.
#[derive(Debug, Default)]
pub struct Bell {
    is_rung: AtomicBool,
    /// Who is to be woken. Set and looked at under the lock, so that nobody sits down unheard.
    listeners: Mutex<Slab<Waker>>,
}

/// A listener's place at one bell; [`Bell::leave`] gives it back.
#[derive(Debug, Default)]
pub struct Seat(Option<u32>);

/// Completes when the bell rings.
#[derive(Debug)]
pub struct Heard<'a> {
    bell: &'a Bell,
    seat: Seat,
}

// === impl Bell ===

impl Bell {
    /// Rings it; wakes all who listen.
    pub fn ring(&self) {
        let listeners = {
            let mut listeners = self.listeners.lock();
            self.is_rung.store(true, Ordering::Release);
            std::mem::take(&mut *listeners)
        };
        for (_, waker) in listeners {
            waker.wake();
        }
    }

    /// Whether it was rung.
    pub fn is_rung(&self) -> bool {
        self.is_rung.load(Ordering::Acquire)
    }

    /// Ready once it was rung; until then the task is woken for it. The seat must be of this bell.
    pub fn poll(&self, cx: &mut Context<'_>, seat: &mut Seat) -> Poll<()> {
        if self.is_rung() {
            return Poll::Ready(());
        }
        let mut listeners = self.listeners.lock();
        if self.is_rung() {
            return Poll::Ready(());
        }
        let taken = seat.0.and_then(|key| usize::try_from(key).ok());
        match taken.and_then(|key| listeners.get_mut(key)) {
            Some(waker) => waker.clone_from(cx.waker()),
            // A place beyond what a seat can say is none: 2^32 connections do not fit into a machine.
            None => seat.0 = u32::try_from(listeners.insert(cx.waker().clone())).ok(),
        }
        Poll::Pending
    }

    /// Listens no more.
    pub fn leave(&self, seat: &mut Seat) {
        let Some(key) = seat.0.take().and_then(|key| usize::try_from(key).ok()) else {
            return;
        };
        let mut listeners = self.listeners.lock();
        // Ringing has taken them all.
        let gone = listeners.try_remove(key);
        if listeners.is_empty() && listeners.capacity() > KEPT {
            listeners.shrink_to_fit();
        }
        drop(listeners);
        drop(gone); // Outside the lock: it may be the last that holds a task, which has seats itself.
    }

    /// Waits for it.
    pub fn heard(&self) -> Heard<'_> {
        Heard {
            bell: self,
            seat: Seat::default(),
        }
    }
}

// === impl Heard ===

impl Future for Heard<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let bell = self.bell;
        bell.poll(cx, &mut self.seat)
    }
}

impl Drop for Heard<'_> {
    fn drop(&mut self) {
        self.bell.leave(&mut self.seat);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn all_who_listen_are_woken_and_those_who_come_late_need_not_wait() {
        let bell = Bell::default();
        let counts = [Arc::new(Count::default()), Arc::default()];
        let mut seats = [Seat::default(), Seat::default()];
        for _ in 0..3 {
            for (count, seat) in counts.iter().zip(&mut seats) {
                let waker = Waker::from(count.clone());
                let mut cx = Context::from_waker(&waker);
                assert!(bell.poll(&mut cx, seat).is_pending());
            }
        }
        assert_eq!(bell.listeners.lock().len(), 2, "one place each");
        assert!(!bell.is_rung());
        bell.ring();
        bell.ring();
        for count in &counts {
            assert_eq!(count.0.load(Ordering::Relaxed), 1);
        }
        let mut cx = Context::from_waker(Waker::noop());
        assert!(bell.poll(&mut cx, &mut seats[0]).is_ready());
        assert!(pin!(bell.heard()).poll(&mut cx).is_ready());
        seats.iter_mut().for_each(|seat| bell.leave(seat));
    }

    #[test]
    fn who_leaves_is_forgotten_and_its_place_is_taken_again() {
        let bell = Bell::default();
        let mut cx = Context::from_waker(Waker::noop());
        let mut seat = Seat::default();
        assert!(bell.poll(&mut cx, &mut seat).is_pending());
        {
            let mut heard = pin!(bell.heard());
            assert!(heard.as_mut().poll(&mut cx).is_pending());
            assert_eq!(bell.listeners.lock().len(), 2);
        }
        assert_eq!(bell.listeners.lock().len(), 1);
        bell.leave(&mut seat);
        bell.leave(&mut seat);
        assert!(bell.listeners.lock().is_empty());
        assert!(bell.poll(&mut cx, &mut seat).is_pending());
        bell.ring();
    }
}
