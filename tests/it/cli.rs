//! The command line without a running agent.
