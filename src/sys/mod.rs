//! Every kernel call and every unsafe line.
