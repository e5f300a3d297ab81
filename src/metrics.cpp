// What can be counted, in Prometheus' text format.
#include <fmt/format.h>

#include <chrono>

#include "src/reports.h"

namespace daxfs {
namespace {

class Metrics {
 public:
  void begin(std::string_view name, std::string_view type, std::string_view help) {
    name_ = name;
    text_ += fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n", name, help, type);
  }
  // `labels`: as they stand between the braces.
  void value(std::string_view labels, std::uint64_t value) {
    text_ += labels.empty() ? fmt::format("{} {}\n", name_, value)
                            : fmt::format("{}{{{}}} {}\n", name_, labels, value);
  }
  void gauge(std::string_view name, std::string_view help, std::uint64_t value) {
    begin(name, "gauge", help);
    this->value({}, value);
  }
  // Cumulative buckets, as Prometheus wants them, with the labels of the series.
  void histogram(const std::string& labels, const WaitTimes::Histogram& histogram) {
    const auto seconds = [](WaitTimes::Duration time) {
      return std::chrono::duration<double>(time).count();
    };
    std::uint64_t count = 0;
    for (std::size_t i = 0; i < histogram.counts.size(); ++i) {
      count += histogram.counts[i];
      const bool last = i == WaitTimes::kBounds.size();
      text_ +=
          fmt::format("{}_bucket{{{},le=\"{}\"}} {}\n", name_, labels,
                      last ? "+Inf" : fmt::format("{}", seconds(WaitTimes::kBounds[i])), count);
    }
    text_ += fmt::format("{0}_sum{{{1}}} {2}\n{0}_count{{{1}}} {3}\n", name_, labels,
                         seconds(histogram.sum), count);
  }
  std::string text() && { return std::move(text_); }

 private:
  std::string_view name_;
  std::string text_;
};

std::string label(std::string_view name, std::string_view value) {
  std::string out = fmt::format("{}=\"", name);
  for (const char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out + '"';
}

}  // namespace

std::string Reports::metrics() const {
  const GateOptions policy = gate_.options();
  const GateCounts counts = gate_.totals();
  const GateEventCounts happened = gate_.event_counts();
  const struct statvfs space = statistics();

  Metrics out;
  out.begin("daxfs_mount_info", "gauge", "The mount: always 1.");
  out.value(label("pool", mount_.pool != nullptr ? mount_.pool->path() : "") + "," +
                label("uuid", mount_.volume.uuid()) + "," + label("mountpoint", mount_.mountpoint) +
                "," + label("version", DAXFS_VERSION),
            1);
  out.begin("daxfs_policy_info", "gauge", "The policy in force: always 1.");
  out.value(label("pin_policy", to_string(policy.pin_policy)) + "," +
                label("on_timeout", to_string(policy.on_timeout)) + "," +
                label("longterm", to_string(policy.longterm)),
            1);
  out.gauge("daxfs_total_bytes", "Space for files.", space.f_blocks * kBlockSize);
  out.gauge("daxfs_free_bytes", "Free space.", space.f_bfree * kBlockSize);
  out.gauge("daxfs_limbo_bytes", "Taken from files while pinned, and not free yet.",
            bytes(counts.limbo).value);
  out.gauge("daxfs_limbo_limit_bytes", "Past this, defer behaves like refuse.",
            policy.limbo_limit.value);
  out.gauge("daxfs_inodes", "Inodes in use.", space.f_files - space.f_ffree);
  out.begin("daxfs_pins", "gauge", "Pins, by kind.");
  out.value(label("kind", "long"), counts.long_pins);
  out.value(label("kind", "short"), counts.short_pins);
  out.gauge("daxfs_pinned_bytes", "Sum over all pins.", counts.pinned_bytes.value);
  out.gauge("daxfs_leases", "Layout leases.", counts.leases);
  out.gauge("daxfs_waiting_requests", "Requests that wait at the gate.", counts.waiting);
  out.begin("daxfs_wait_seconds", "histogram", "How long requests have waited, by policy.");
  const WaitTimes waits = gate_.wait_times();
  for (const PinPolicy one : {PinPolicy::refuse, PinPolicy::defer, PinPolicy::wait,
                              PinPolicy::breaks, PinPolicy::ignore}) {
    out.histogram(label("policy", to_string(one)), waits.of(one));
  }
  out.gauge("daxfs_stopped", "1: nothing is changed any more; daxfsctl status says why.",
            health_.why_stopped().empty() ? 0 : 1);
  out.begin("daxfs_unreadable_total", "counter", "Reads that met missing or damaged storage.");
  out.value({}, health_.unreadable());
  out.gauge("daxfs_survivors", "Processes that hold pins of a former mount.",
            files_.survivors().size());
  out.begin("daxfs_gate_events_total", "counter", "What has happened at the gate since the mount.");
  for (std::size_t kind = 0; kind < happened.size(); ++kind) {
    const auto what = static_cast<GateEvent::Kind>(kind);
    // The gate posts none; daxfs_survivors says it.
    if (what == GateEvent::Kind::quarantine) continue;
    out.value(label("event", to_string(what)), happened[kind]);
  }
  return std::move(out).text();
}

}  // namespace daxfs
