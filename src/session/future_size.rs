//! Keeps the futures of sessions small.
//!
//! An idle tunnel costs the size of its task's future, and there can be tens of thousands. A future
//! is as large as its largest phase, and stores an argument next to the variable that it is moved
//! to. So each phase of a session has its own box: the memory of `establish` is freed before that
//! of `relay` is allocated. The sizes are asserted at compile time.

use std::pin::Pin;

/// Maximum size of a session task, in bytes, without the boxes of its phases.
pub const TASK: usize = 64;

/// Asserts at compile time that a future has at most `MAX` bytes, and returns it.
pub fn at_most<const MAX: usize, F: Future>(future: F) -> F {
    const { assert!(size_of::<F>() <= MAX, "the future has grown past its limit") };
    future
}

/// Moves a future to the heap, so that its memory is freed when it is finished. Asserts at compile
/// time that it has at most `MAX` bytes.
pub(super) fn boxed<const MAX: usize, F: Future>(future: F) -> Pin<Box<F>> {
    Box::pin(at_most::<MAX, F>(future))
}
