//! The common end of the data threads: none goes on without the others, and what one ended with is
//! told when all have closed what they held.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::anyhow;
use tokio::sync::oneshot;

use super::Post;

/// One thread's part in the end. Dropped, that thread has ended; of a panic, if it said no reason.
pub(super) struct Part {
    end: Arc<End>,
    said: bool,
}

struct End {
    posts: Arc<[Post]>,
    state: Mutex<State>,
}

struct State {
    running: usize,
    result: anyhow::Result<()>,
    tell: Option<oneshot::Sender<anyhow::Result<()>>>,
}

impl Part {
    /// A part for each thread.
    pub(super) fn all(posts: &Arc<[Post]>, tell: oneshot::Sender<anyhow::Result<()>>) -> Vec<Self> {
        let state = State { running: posts.len(), result: Ok(()), tell: Some(tell) };
        let end = Arc::new(End { posts: Arc::clone(posts), state: Mutex::new(state) });
        posts.iter().map(|_| Self { end: Arc::clone(&end), said: false }).collect()
    }

    /// What this thread ended with. The first error is the one that is told.
    pub(super) fn say(&mut self, result: anyhow::Result<()>) {
        self.said = true;
        let mut state = self.end.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.result.is_ok() {
            state.result = result;
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.said {
            self.say(Err(anyhow!("a data thread is gone")));
        }
        for post in self.end.posts.iter() {
            post.shared.stop.store(true, Ordering::Release);
            post.nudge.give();
        }
        let mut state = self.end.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running -= 1;
        if state.running == 0
            && let Some(tell) = state.tell.take()
        {
            let _ = tell.send(std::mem::replace(&mut state.result, Ok(())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_breaks_ends_the_others_and_its_reason_is_told_last() {
        let posts: Arc<[Post]> = (0..3).map(|_| Post::new().unwrap()).collect();
        let (tell, mut ended) = oneshot::channel();
        let mut parts = Part::all(&posts, tell);
        let mut broken = parts.remove(1);
        broken.say(Err(anyhow!("the socket is broken")));
        drop(broken);
        assert!(posts.iter().all(|post| post.shared.stop.load(Ordering::Acquire)));
        assert!(ended.try_recv().is_err(), "the others still hold theirs");
        for mut part in parts {
            part.say(Ok(()));
        }
        let told = ended.try_recv().unwrap().unwrap_err();
        assert_eq!(told.to_string(), "the socket is broken");
    }

    #[test]
    fn a_thread_that_panics_is_noticed() {
        let posts: Arc<[Post]> = [Post::new().unwrap()].into();
        let (tell, mut ended) = oneshot::channel();
        let part = Part::all(&posts, tell).remove(0);
        let thread = std::thread::spawn(move || {
            let _part = part;
            std::panic::resume_unwind(Box::new("as a test wants"));
        });
        assert!(thread.join().is_err());
        assert!(ended.try_recv().unwrap().unwrap_err().to_string().contains("gone"));
    }
}
