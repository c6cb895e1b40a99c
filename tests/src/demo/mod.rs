//! The office developer's day, step by step, with what came of each step.

mod layers;
mod reach;
mod scaling;
mod screen;
mod step;

use crate::bridge::Bridge;
use crate::lab::Lab;

pub use screen::{addresses, flow_table, how_to_ask, how_to_enter, how_to_look, table};
pub use step::Step;

/// Plays the developer on `office-pc`, and meanwhile the one who scales a service.
#[must_use]
pub fn play(lab: &mut Lab, bridge: &Bridge) -> Vec<Step> {
    let mut steps = reach::steps(lab, bridge);
    steps.extend(scaling::steps(lab, bridge));
    steps.extend(layers::steps(lab, bridge));
    steps
}
