//! Whether the datapath does its work, asked of the kernel: for `status` and for whoever probes `/readyz`.

use bridge_common::layout::{OfficeCidr, name};

use crate::datapath::{Mode, attached};
use crate::maps::InstanceLock;
use crate::maps::Pins;
use crate::maps::{TableError, Tables, access};
use crate::model::program::{AttachPoint, Program, Side};
use crate::observe::state_file::State;

/// What keeps the bridge from being ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// Where clients come in nothing is attached.
    #[error("attached to no uplink")]
    NoUplink,
    /// A new `run` forwards as its predecessor did, and has not applied its own configuration yet.
    #[error("process {pid} is still starting")]
    Starting {
        /// The process.
        pid: u32,
    },
    /// Our program is gone from an interface.
    #[error("{} is not attached to {interface}", .program.name())]
    Detached {
        /// The program.
        program: Program,
        /// The interface.
        interface: String,
    },
    /// No packet is ours yet.
    #[error("table {table} is empty")]
    Empty {
        /// The table.
        table: &'static str,
    },
}

/// A program that is to be attached.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Which, and where.
    pub point: AttachPoint,
    /// On which side of the bridge.
    pub side: Side,
    /// How it is attached, and `None` where the kernel shows no program of ours any more.
    pub mode: Option<Mode>,
}

impl Attachment {
    /// `tcx`, `clsact`, `native`, or `detached`.
    #[must_use]
    pub fn mode_name(&self) -> String {
        self.mode
            .map_or_else(|| "detached".to_owned(), |mode| mode.to_string())
    }
}

/// The datapath as it stands.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// What `run` last applied, if anything.
    pub state: Option<State>,
    /// The programs.
    pub attachments: Vec<Attachment>,
    /// Why it is not ready; nothing if it is.
    pub obstacles: Vec<Obstacle>,
}

impl Readiness {
    /// Looks at programs and tables.
    ///
    /// # Errors
    /// When the tables can't be read.
    pub async fn read(pins: &Pins, tables: &Tables) -> anyhow::Result<Self> {
        let state = State::read(pins.root())?;
        let mut attachments = Vec::new();
        if let Some(state) = &state {
            for point in &state.attach_points {
                attachments.push(Attachment {
                    mode: attached(pins, point, state.mode).await,
                    side: point.side(&state.uplink),
                    point: point.clone(),
                });
            }
        }
        let mut obstacles = obstacles(&attachments, has_office(tables)?);
        let applied_by = state.as_ref().map(|state| state.pid);
        obstacles.extend(
            InstanceLock::holder(pins.root())
                .filter(|&pid| applied_by != Some(pid))
                .map(|pid| Obstacle::Starting { pid }),
        );
        Ok(Self {
            state,
            attachments,
            obstacles,
        })
    }

    /// Whether nothing stands in the way.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.obstacles.is_empty()
    }
}

fn obstacles(attachments: &[Attachment], has_office: bool) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    if !attachments
        .iter()
        .any(|attachment| attachment.point.program == Program::UplinkIngress)
    {
        obstacles.push(Obstacle::NoUplink);
    }
    obstacles.extend(
        attachments
            .iter()
            .filter(|attachment| attachment.mode.is_none())
            .map(|attachment| Obstacle::Detached {
                program: attachment.point.program,
                interface: attachment.point.interface.clone(),
            }),
    );
    if !has_office {
        obstacles.push(Obstacle::Empty {
            table: name::OFFICE_CIDRS,
        });
    }
    obstacles
}

/// Whether the tables are filled. The reconciler writes the office's networks last.
fn has_office(tables: &Tables) -> Result<bool, TableError> {
    let office = tables.prefixes::<OfficeCidr>(name::OFFICE_CIDRS)?;
    let first = office.keys().next().transpose();
    Ok(first.map_err(access(name::OFFICE_CIDRS))?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(interface: &str, program: Program, mode: Option<Mode>) -> Attachment {
        let point = AttachPoint {
            ifindex: 2,
            interface: interface.to_owned(),
            program,
        };
        Attachment {
            side: point.side("eth0"),
            point,
            mode,
        }
    }

    #[test]
    fn a_bridge_that_is_attached_and_filled_is_ready() {
        let attachments = [
            attachment("eth0", Program::UplinkIngress, Some(Mode::Tcx)),
            attachment("cni0", Program::ClusterEgress, Some(Mode::Tcx)),
            attachment("eth0", Program::XdpFast, Some(Mode::Native)),
        ];
        assert_eq!(obstacles(&attachments, true), []);
    }

    #[test]
    fn every_obstacle_is_told() {
        let attachments = [
            attachment("cni0", Program::ClusterIngress, Some(Mode::Tcx)),
            attachment("cni0", Program::ClusterEgress, None),
        ];
        assert_eq!(
            obstacles(&attachments, false),
            [
                Obstacle::NoUplink,
                Obstacle::Detached {
                    program: Program::ClusterEgress,
                    interface: "cni0".to_owned()
                },
                Obstacle::Empty {
                    table: "office_cidrs"
                },
            ]
        );
    }
}
