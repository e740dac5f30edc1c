//! The Prometheus text format.

use std::fmt::{self, Write};

use crate::metrics::{Histogram, LabeledCounters};

/// A page of metrics in the Prometheus text format, version 0.0.4.
pub(super) struct MetricsPage(pub(super) String);

impl MetricsPage {
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        writeln!(self.0, "# HELP tunnel_agent_{name} {help}.\n# TYPE tunnel_agent_{name} {kind}")
    }

    pub(super) fn sample(&mut self, name: &str, labels: &str, value: impl fmt::Display) -> fmt::Result {
        writeln!(self.0, "tunnel_agent_{name}{labels} {value}")
    }

    /// A family of one sample without labels.
    pub(super) fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) -> fmt::Result {
        self.family(name, kind, help)?;
        self.sample(name, "", value)
    }

    pub(super) fn by_label(&mut self, name: &str, label: &str, counts: &LabeledCounters) -> fmt::Result {
        counts.each().try_for_each(|(of, count)| self.sample(name, &format!("{{{label}=\"{of}\"}}"), count))
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        self.family(name, "histogram", help)?;
        let counts = histogram.cumulative();
        let bounds = Histogram::BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&counts) {
            self.sample(&format!("{name}_bucket"), &format!("{{le=\"{bound}\"}}"), count)?;
        }
        self.sample(&format!("{name}_sum"), "", histogram.seconds())?;
        self.sample(&format!("{name}_count"), "", counts.last().copied().unwrap_or(0))
    }
}

/// A label's value, escaped.
pub(super) fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
