//! The Prometheus text format.

use std::fmt::{self, Write};

use super::tunnel::TunnelReport;
use crate::metrics::{Histogram, LabeledCounters};

/// A page of metrics in the Prometheus text format, version 0.0.4.
pub(crate) struct MetricsPage {
    /// The beginning of all metrics' names.
    prefix: &'static str,
    text: String,
}

/// The tunnels whose samples a page of an agent has; those of several have the label `tunnel`.
pub(super) type Reports<'a> = &'a [TunnelReport];

impl MetricsPage {
    /// The page that `write` writes. Writing to memory does not fail.
    pub(crate) fn written(prefix: &'static str, write: impl FnOnce(&mut Self) -> fmt::Result) -> String {
        let mut page = MetricsPage { prefix, text: String::with_capacity(8 << 10) };
        let _ = write(&mut page);
        page.text
    }

    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        let prefix = self.prefix;
        writeln!(self.text, "# HELP {prefix}_{name} {help}.\n# TYPE {prefix}_{name} {kind}")
    }

    /// A family of one sample without labels.
    pub(crate) fn one(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        value: impl fmt::Display,
    ) -> fmt::Result {
        self.family(name, kind, help)?;
        self.sample(name, &[], value)
    }

    /// A sample with these labels, without those that are empty.
    pub(crate) fn sample(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        value: impl fmt::Display,
    ) -> fmt::Result {
        write!(self.text, "{}_{name}", self.prefix)?;
        let mut before = '{';
        for (label, text) in labels.iter().filter(|(_, text)| !text.is_empty()) {
            write!(self.text, "{before}{label}=\"{}\"", escaped(text))?;
            before = ',';
        }
        let end = if before == '{' { "" } else { "}" };
        writeln!(self.text, "{end} {value}")
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
        tunnels.iter().try_for_each(|tunnel| self.buckets(name, tunnel.name(), histogram(tunnel)))
    }

    /// The samples of one histogram.
    pub(crate) fn buckets(&mut self, name: &str, of: (&str, &str), histogram: &Histogram) -> fmt::Result {
        let counts = histogram.cumulative();
        let bounds = Histogram::BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&counts) {
            self.sample(&format!("{name}_bucket"), &[of, ("le", &bound)], count)?;
        }
        self.sample(&format!("{name}_sum"), &[of], histogram.seconds())?;
        self.sample(&format!("{name}_count"), &[of], counts.last().copied().unwrap_or(0))
    }
}

/// A label's value, escaped.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
