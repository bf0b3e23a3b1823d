//! Which operation must come before which. Filled in with the planner.
