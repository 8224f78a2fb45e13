//! What takes several floors at once to be tested.

mod agent;
mod cloud;
pub mod seeds;
mod sim;
