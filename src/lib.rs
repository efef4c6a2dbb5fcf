//! Tollgate: an API gateway for the network edge.
