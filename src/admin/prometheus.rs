//! The Prometheus text format.

use std::fmt::{self, Write};

use super::tunnel::TunnelReport;
use crate::metrics::{Histogram, LabeledCounters};

/// A page of metrics in the Prometheus text format, version 0.0.4. The samples of an agent with several tunnels have the
/// label `tunnel`.
pub(super) struct MetricsPage(pub(super) String);

/// The tunnels whose samples a page has.
pub(super) type Reports<'a> = &'a [TunnelReport];

impl MetricsPage {
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        writeln!(self.0, "# HELP tunnel_agent_{name} {help}.\n# TYPE tunnel_agent_{name} {kind}")
    }

    /// A sample with these labels, without those that are empty.
    pub(super) fn sample(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        value: impl fmt::Display,
    ) -> fmt::Result {
        write!(self.0, "tunnel_agent_{name}")?;
        let mut before = '{';
        for (label, text) in labels.iter().filter(|(_, text)| !text.is_empty()) {
            write!(self.0, "{before}{label}=\"{}\"", escaped(text))?;
            before = ',';
        }
        let end = if before == '{' { "" } else { "}" };
        writeln!(self.0, "{end} {value}")
    }

    /// A family of one sample for each tunnel.
    pub(super) fn each<N: fmt::Display>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        tunnels: Reports<'_>,
        value: impl Fn(&TunnelReport) -> Option<N>,
    ) -> fmt::Result {
        let samples: Vec<_> = tunnels.iter().filter_map(|tunnel| Some((tunnel, value(tunnel)?))).collect();
        if samples.is_empty() {
            return Ok(());
        }
        self.family(name, kind, help)?;
        samples.iter().try_for_each(|(tunnel, value)| self.sample(name, &[tunnel.name()], value))
    }

    /// A family of counters with a label for each tunnel.
    pub(super) fn by_label(
        &mut self,
        (name, label, help): (&str, &str, &str),
        tunnels: Reports<'_>,
        counters: impl Fn(&TunnelReport) -> &LabeledCounters,
    ) -> fmt::Result {
        self.family(name, "counter", help)?;
        for tunnel in tunnels {
            for (of, count) in counters(tunnel).each() {
                self.sample(name, &[tunnel.name(), (label, of)], count)?;
            }
        }
        Ok(())
    }

    /// A histogram of each tunnel.
    pub(super) fn histogram(
        &mut self,
        (name, help): (&str, &str),
        tunnels: Reports<'_>,
        histogram: impl Fn(&TunnelReport) -> &Histogram,
    ) -> fmt::Result {
        self.family(name, "histogram", help)?;
        for tunnel in tunnels {
            let counts = histogram(tunnel).cumulative();
            let bounds = Histogram::BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
            for (bound, count) in bounds.zip(&counts) {
                self.sample(&format!("{name}_bucket"), &[tunnel.name(), ("le", &bound)], count)?;
            }
            self.sample(&format!("{name}_sum"), &[tunnel.name()], histogram(tunnel).seconds())?;
            let count = counts.last().copied().unwrap_or(0);
            self.sample(&format!("{name}_count"), &[tunnel.name()], count)?;
        }
        Ok(())
    }
}

/// A label's value, escaped.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
