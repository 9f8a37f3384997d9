//! A queue of messages from any thread to one task.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// An unbounded channel with one receiver.
pub struct Channel<T> {
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    queue: VecDeque<T>,
    reader: Option<Waker>,
}

impl<T> Default for Channel<T> {
    fn default() -> Self {
        Self { inner: Mutex::new(Inner { queue: VecDeque::new(), reader: None }) }
    }
}

impl<T> Channel<T> {
    pub fn send(&self, message: T) {
        let reader = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.queue.push_back(message);
            inner.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    pub fn poll_receive(&self, cx: &Context<'_>) -> Poll<T> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match inner.queue.pop_front() {
            Some(message) => Poll::Ready(message),
            None => {
                inner.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Waits for the next message.
    pub async fn receive(&self) -> T {
        poll_fn(|cx| self.poll_receive(cx)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::executor;
    use std::sync::Arc;

    #[test]
    fn messages_of_another_thread_arrive_in_order() {
        let channel: Arc<Channel<u32>> = Arc::default();
        let sender = channel.clone();
        let thread = std::thread::spawn(move || (0..100).for_each(|message| sender.send(message)));
        let read = executor::run(async {
            let mut read = Vec::new();
            while read.len() < 100 {
                read.push(channel.receive().await);
            }
            read
        });
        thread.join().unwrap();
        assert_eq!(read.unwrap(), (0..100).collect::<Vec<_>>());
    }
}
