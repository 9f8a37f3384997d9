//! The tasks of a worker: futures that run when they are woken, in the order in which they were.
//!
//! A task is at its place until it is woken, then in the queue until it runs, so that it is there once however often it is
//! woken. A place stays when its task ends, and its waker with it: who still wakes the old task wakes the next one there for
//! nothing. On the worker's own thread waking is a push to the queue; other threads leave the number of the place with the
//! bell, and ring it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// A task, whatever it does.
type Boxed = Pin<Box<dyn Future<Output = ()>>>;

thread_local! {
    static TASKS: RefCell<Option<Tasks>> = const { RefCell::new(None) };
}

/// The tasks of this thread.
struct Tasks {
    bell: Arc<Bell>,
    places: Vec<Place>,
    free: Vec<u32>,
    /// Tasks that were woken.
    queue: VecDeque<(u32, Boxed)>,
    /// The task that runs was woken meanwhile.
    again: bool,
    running: Option<u32>,
}

struct Place {
    /// The task, while it waits.
    task: Option<Boxed>,
    waker: Waker,
}

/// Whom a waker wakes.
struct Ticket {
    bell: Arc<Bell>,
    place: u32,
}

impl Wake for Ticket {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let is_ours = with(|tasks| {
            let is_ours = Arc::ptr_eq(&tasks.bell, &self.bell);
            if is_ours {
                tasks.wake(self.place);
            }
            is_ours
        });
        if is_ours != Some(true) {
            self.bell.woken().push(self.place);
            self.bell.ring();
        }
    }
}

/// Wakes a worker from its wait, by an eventfd that it watches.
pub struct Bell {
    rung: AtomicBool,
    asleep: AtomicBool,
    /// The places of tasks that other threads have woken.
    woken: Mutex<Vec<u32>>,
    fd: OwnedFd,
}

impl Bell {
    pub fn new(fd: OwnedFd) -> Self {
        Self { rung: AtomicBool::new(false), asleep: AtomicBool::new(false), woken: Mutex::default(), fd }
    }

    pub fn ring(&self) {
        self.rung.store(true, Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }

    /// The worker is about to wait: whether it may.
    pub fn sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        !self.rung.load(Ordering::SeqCst)
    }

    /// The worker has waited.
    pub fn stay_awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Makes the eventfd one that nothing was written to.
    pub fn hear(&self) {
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
    }

    fn woken(&self) -> MutexGuard<'_, Vec<u32>> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

/// Nothing comes back where there are no tasks: on a thread that is no worker, or while it ends and they are dropped.
fn with<R>(act: impl FnOnce(&mut Tasks) -> R) -> Option<R> {
    TASKS.try_with(|tasks| tasks.try_borrow_mut().ok()?.as_mut().map(act)).ok().flatten()
}

/// Makes this thread one that has tasks, until it ends.
pub fn begin(bell: Arc<Bell>) {
    let tasks =
        Tasks { bell, places: Vec::new(), free: Vec::new(), queue: VecDeque::new(), again: false, running: None };
    TASKS.set(Some(tasks));
}

/// Puts into the queue whom other threads have woken since the bell rang.
pub fn gather() {
    with(|tasks| {
        if tasks.bell.rung.swap(false, Ordering::SeqCst) {
            let woken = std::mem::take(&mut *tasks.bell.woken());
            woken.into_iter().for_each(|place| tasks.wake(place));
        }
    });
}

/// Whether there is a task to run.
pub fn is_any_ready() -> bool {
    with(|tasks| !tasks.queue.is_empty()) == Some(true)
}

/// Runs the task that was woken first. Whether there was one.
pub fn run_next() -> bool {
    let Some((place, mut task, waker)) = with(Tasks::take).flatten() else { return false };
    // What a task does, and its end, is done while nobody holds the tasks: it starts and wakes others.
    let left = match task.as_mut().poll(&mut Context::from_waker(&waker)) {
        Poll::Ready(()) => {
            drop(task);
            None
        }
        Poll::Pending => Some(task),
    };
    with(|tasks| tasks.put_back(place, left, waker));
    true
}

impl Tasks {
    fn wake(&mut self, place: u32) {
        if self.running == Some(place) {
            self.again = true;
        } else if let Some(task) = self.places.get_mut(place as usize).and_then(|at| at.task.take()) {
            self.queue.push_back((place, task));
        }
    }

    /// The next task, with its place and its waker.
    fn take(&mut self) -> Option<(u32, Boxed, Waker)> {
        let (place, task) = self.queue.pop_front()?;
        self.running = Some(place);
        self.again = false;
        let at = self.places.get_mut(place as usize)?;
        Some((place, task, std::mem::replace(&mut at.waker, Waker::noop().clone())))
    }

    fn put_back(&mut self, place: u32, left: Option<Boxed>, waker: Waker) {
        self.running = None;
        let Some(at) = self.places.get_mut(place as usize) else { return };
        at.waker = waker;
        match left {
            None => self.free.push(place),
            Some(task) if self.again => self.queue.push_back((place, task)),
            Some(task) => at.task = Some(task),
        }
    }

    fn start(&mut self, task: Boxed) {
        let place = self.free.pop().unwrap_or_else(|| {
            let place = self.places.len() as u32;
            let waker = Waker::from(Arc::new(Ticket { bell: self.bell.clone(), place }));
            self.places.push(Place { task: None, waker });
            place
        });
        self.queue.push_back((place, task));
    }
}

/// Starts a task on this worker. It runs until it ends or the worker does.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    spawn_boxed(Box::pin(future));
}

/// [`spawn`], which is in the program once, whatever is started.
fn spawn_boxed(task: Boxed) {
    with(|tasks| tasks.start(task));
}

/// A task that ends when this is dropped, if it has not before.
pub struct Task(Rc<RefCell<Life>>);

enum Life {
    Running(Waker),
    Over,
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Life::Running(waker) = self.0.replace(Life::Over) {
            waker.wake();
        }
    }
}

/// As [`spawn`], a task that runs as long as what is given back.
pub fn start(future: impl Future<Output = ()> + 'static) -> Task {
    start_boxed(Box::pin(future))
}

fn start_boxed(mut task: Boxed) -> Task {
    let life = Rc::new(RefCell::new(Life::Running(Waker::noop().clone())));
    let seen = life.clone();
    spawn(poll_fn(move |cx| {
        match &mut *seen.borrow_mut() {
            Life::Running(waker) => waker.clone_from(cx.waker()),
            Life::Over => return Poll::Ready(()),
        }
        task.as_mut().poll(cx)
    }));
    Task(life)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::pending;

    use rustix::event::{EventfdFlags, eventfd};

    fn begin() {
        super::begin(Arc::new(Bell::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap())));
    }

    fn run_all() {
        gather();
        while run_next() {}
    }

    /// Counts how often it is polled, and says when it is dropped.
    #[derive(Clone, Default)]
    struct Seen(Rc<Notes>);

    #[derive(Default)]
    struct Notes {
        polls: Cell<u32>,
        is_dropped: Cell<bool>,
        waker: RefCell<Option<Waker>>,
    }

    impl Drop for Seen {
        fn drop(&mut self) {
            self.0.is_dropped.set(true);
        }
    }

    impl Seen {
        /// A task that goes on until it was polled so often.
        async fn task(self, polls: u32) {
            poll_fn(|cx| {
                self.0.polls.set(self.0.polls.get() + 1);
                *self.0.waker.borrow_mut() = Some(cx.waker().clone());
                if self.0.polls.get() < polls { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
        }

        fn wake(&self) {
            self.0.waker.borrow().iter().for_each(Waker::wake_by_ref);
        }
    }

    #[test]
    fn a_task_runs_once_however_often_it_is_woken() {
        begin();
        let seen = Seen::default();
        spawn(seen.clone().task(3));
        run_all();
        assert_eq!((seen.0.polls.get(), is_any_ready()), (1, false));
        seen.wake();
        seen.wake();
        assert!(is_any_ready());
        run_all();
        assert_eq!((seen.0.polls.get(), seen.0.is_dropped.get()), (2, false));
        let waker = seen.0.waker.take();
        std::thread::spawn(move || waker.iter().for_each(Waker::wake_by_ref)).join().unwrap();
        run_all();
        assert_eq!((seen.0.polls.get(), seen.0.is_dropped.get()), (3, true));
        // Who wakes what has ended does no harm.
        seen.wake();
        run_all();
        assert_eq!(seen.0.polls.get(), 3);
    }

    #[test]
    fn a_task_that_wakes_itself_runs_after_the_others() {
        begin();
        let order = Rc::new(RefCell::new(Vec::new()));
        for name in [1, 2] {
            let order = order.clone();
            let mut left = 2;
            spawn(poll_fn(move |cx| {
                order.borrow_mut().push(name);
                cx.waker().wake_by_ref();
                left -= 1;
                if left > 0 { Poll::Pending } else { Poll::Ready(()) }
            }));
        }
        run_all();
        assert_eq!(*order.borrow(), [1, 2, 1, 2]);
    }

    #[test]
    fn a_task_ends_when_what_holds_it_is_dropped_and_a_place_is_used_again() {
        begin();
        for _ in 0..3 {
            let seen = Seen::default();
            let theirs = seen.clone();
            let task = start(async move {
                let _theirs = theirs;
                pending::<()>().await;
            });
            run_all();
            assert!(!seen.0.is_dropped.get());
            drop(task);
            run_all();
            assert!(seen.0.is_dropped.get());
        }
        assert_eq!(with(|tasks| tasks.places.len()), Some(1));
    }
}
