//! The fabric over RDMA.
#[allow(unsafe_code)]
mod sys;
