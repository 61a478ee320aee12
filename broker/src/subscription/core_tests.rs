//! Stories of one subscription, told to its core.
