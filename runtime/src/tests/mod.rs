//! What takes several floors at once to be tested.

mod cloud;
pub mod seeds;
mod sim;
