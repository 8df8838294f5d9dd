//! What is waited for beside the bytes of a connection is looked at only when it calls, not at every byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

/// Tells whether the futures behind it were woken since they were last polled.
///
/// A connection's task is polled for every read and write; polling its timers and watches each time, too, costs more
/// than the copying of a small message. Futures polled with the gate's waker need another poll only when the gate is
/// open.
#[derive(Debug, Default)]
pub struct Gate {
    signal: Option<Arc<Signal>>,
}

#[derive(Debug)]
struct Signal {
    woken: AtomicBool,
    task: Waker,
}

// === impl Gate ===

impl Gate {
    /// The waker to poll with, if there is a reason to poll: the first time, after a wake-up, and in a new task.
    pub fn open(&mut self, cx: &Context<'_>) -> Option<Waker> {
        let signal = match &self.signal {
            Some(signal) if signal.task.will_wake(cx.waker()) => {
                // Cleared before the poll: a wake-up during it counts for the next.
                if !signal.woken.swap(false, Ordering::AcqRel) {
                    return None;
                }
                signal.clone()
            }
            _ => {
                let signal = Arc::new(Signal {
                    woken: AtomicBool::new(false),
                    task: cx.waker().clone(),
                });
                self.signal.insert(signal).clone()
            }
        };
        Some(Waker::from(signal))
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Count(std::sync::atomic::AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_opens_first_after_a_wake_up_and_in_a_new_task() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let cx = Context::from_waker(&waker);
        let mut gate = Gate::default();
        let inner = gate.open(&cx).unwrap();
        assert!(gate.open(&cx).is_none());
        inner.wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(gate.open(&cx).is_some());
        assert!(gate.open(&cx).is_none());
        let other = Waker::from(Arc::new(Count::default()));
        assert!(gate.open(&Context::from_waker(&other)).is_some());
    }
}
