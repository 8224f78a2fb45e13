//! Lets through what is beyond a threshold.
