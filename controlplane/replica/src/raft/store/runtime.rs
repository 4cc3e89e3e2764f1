//! The async runtime of Raft: tokio; in a simulation, with a random generator that follows the seed.

#[cfg(not(feature = "simulation"))]
pub(crate) use openraft_rt_tokio::TokioRuntime as Runtime;
#[cfg(feature = "simulation")]
pub(crate) use seeded::Seeded as Runtime;

#[cfg(feature = "simulation")]
mod seeded {
    use std::future::Future;
    use std::time::Duration;

    use openraft::OptionalSend;
    use openraft_rt::AsyncRuntime;
    use openraft_rt_tokio::TokioRuntime;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    /// Tokio, with another random generator. (Openraft provides a runtime for this, but its generator exists only in
    /// tasks that Raft started itself; here other tasks call it as well.)
    #[derive(Debug)]
    pub(crate) struct Seeded(TokioRuntime);

    impl AsyncRuntime for Seeded {
        type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
        type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
        type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
        type Instant = <TokioRuntime as AsyncRuntime>::Instant;
        type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
        type Timeout<R, T: Future<Output = R> + OptionalSend> =
            <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
        type ThreadLocalRng = SmallRng;
        type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
        type Watch = <TokioRuntime as AsyncRuntime>::Watch;
        type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
        type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

        fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
        where
            T: Future + OptionalSend + 'static,
            T::Output: OptionalSend + 'static,
        {
            TokioRuntime::spawn(future)
        }

        fn sleep(duration: Duration) -> Self::Sleep {
            TokioRuntime::sleep(duration)
        }

        fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
            TokioRuntime::sleep_until(deadline)
        }

        fn timeout<R, F: Future<Output = R> + OptionalSend>(
            duration: Duration,
            future: F,
        ) -> Self::Timeout<R, F> {
            TokioRuntime::timeout(duration, future)
        }

        fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
            deadline: Self::Instant,
            future: F,
        ) -> Self::Timeout<R, F> {
            TokioRuntime::timeout_at(deadline, future)
        }

        fn is_panic(join_error: &Self::JoinError) -> bool {
            TokioRuntime::is_panic(join_error)
        }

        fn thread_rng() -> Self::ThreadLocalRng {
            SmallRng::seed_from_u64(romana_storage::platform::random())
        }

        fn new(threads: usize) -> Self {
            Self(TokioRuntime::new(threads))
        }

        fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
            self.0.block_on(future)
        }
    }
}
