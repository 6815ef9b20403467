//! The head of a request must come whole, soon after it began.
//!
//! Guarantees: from the first byte of a head that arrives while nothing is being answered, its last one
//! has so long; then reading fails and the connection ends. Neither a body nor the pause between two
//! requests is cut by it.
//!
//! Does not: limit that pause, nor a head that began to arrive while the request before it was answered;
//! hyper's own limit, the idle timeout, ends both.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// How far the requests of a connection are; told by whoever answers them.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Heads that came whole.
    begun: AtomicU64,
    /// Requests whose answer began.
    answered: AtomicU64,
}

impl Progress {
    /// A head came whole.
    pub(super) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Its answer begins.
    pub(super) fn answer(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection whose reads fail when a head takes too long.
#[derive(Debug)]
pub(super) struct HeadDeadline<S> {
    stream: S,
    limit: Duration,
    progress: Arc<Progress>,
    /// The heads that were whole when the deadline was set: with one more, it is over.
    begun: u64,
    deadline: Option<Instant>,
    /// Made only for a head that does not come in one piece.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> HeadDeadline<S> {
    pub(super) fn new(stream: S, limit: Duration, progress: Arc<Progress>) -> Self {
        Self {
            stream,
            limit,
            progress,
            begun: 0,
            // who connects has something to ask: only between two requests may there be silence
            deadline: Some(Instant::now() + limit),
            timer: None,
        }
    }

    /// Whether what arrives now belongs to a head. Forgets the deadline of one that is whole.
    fn reads_head(&mut self) -> bool {
        // both are written by the task that reads here
        let begun = self.progress.begun.load(Ordering::Relaxed);
        if begun != self.begun {
            (self.begun, self.deadline, self.timer) = (begun, None, None);
        }
        begun == self.progress.answered.load(Ordering::Relaxed)
    }

    /// Ready when the time is over.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        timer.as_mut().poll(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadDeadline<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.reads_head() {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        }
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buffer) else {
            ready!(this.poll_deadline(cx));
            return Poll::Ready(Err(too_slow()));
        };
        read?;
        match this.deadline {
            // one who sends a byte now and then is never waited for above
            Some(deadline) if Instant::now() >= deadline => return Poll::Ready(Err(too_slow())),
            None if buffer.filled().len() > before => {
                this.deadline = Some(Instant::now() + this.limit);
            }
            _ => {}
        }
        Poll::Ready(Ok(()))
    }
}

fn too_slow() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        "the head of a request took too long",
    )
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadDeadline<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}
