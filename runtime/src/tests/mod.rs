//! What takes several floors at once to be tested.

mod agent;
mod sim;
