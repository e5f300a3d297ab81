#include "src/scrub.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <nlohmann/json.hpp>
#include <utility>

namespace daxfs {
namespace {

using nlohmann::json;

constexpr std::uint64_t kInodesAtOnce = 64;
// A step ends when it has said so much.
constexpr std::size_t kEnoughSaid = 16000;

std::string line(const json& object) {
  return object.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace

Scrub::Scrub(Filesystem& filesystem, std::chrono::milliseconds step)
    : fs_(filesystem),
      volume_(filesystem.mount().volume),
      step_(step),
      moved_(volume_.medium().blocks()),
      owned_(volume_.medium().blocks()) {
  at_.block = volume_.data_area().start;
}

Result<std::unique_ptr<Scrub>> Scrub::begin(Filesystem& filesystem,
                                            std::chrono::milliseconds step) {
  try {
    std::unique_ptr<Scrub> scrub(new Scrub(filesystem, step));
    scrub->watching_ = filesystem.mount().volume.allocator().watch(&scrub->moved_);
    if (!scrub->watching_) return fail(EBUSY);
    return scrub;
  } catch (const std::bad_alloc&) {  // the bitmaps, which malloc and its reserve know nothing of
    return fail(ENOMEM);
  }
}

Scrub::~Scrub() {
  if (watching_) volume_.allocator().watch(nullptr);
}

bool Scrub::step(std::string& lines) {
  if (at_.phase == Phase::done) return false;
  const auto until = std::chrono::steady_clock::now() + step_;
  do {
    // What cannot be read any more would be taken for damage.
    if (volume_.medium().failed()) {
      found("medium", Severity::fatal, "pool", volume_.medium().failure());
      begin_phase(Phase::done);
    } else {
      advance();
    }
  } while (at_.phase != Phase::done && lines_.size() < kEnoughSaid &&
           std::chrono::steady_clock::now() < until);
  lines += std::exchange(lines_, {});
  lines += at_.phase == Phase::done ? summary() : progress();
  return true;
}

void Scrub::begin_phase(Phase phase) {
  at_.phase = phase;
  at_.inode = InodeNumber{1};
  at_.last_inode = InodeNumber{volume_.inodes().capacity()};
  const GateCounts counts = fs_.gate().totals();
  at_.pins_to_look_at = counts.long_pins + counts.short_pins;
}

void Scrub::advance() {
  switch (at_.phase) {
    case Phase::pool:
      check_superblocks();
      check_pool();
      check_places();
      return begin_phase(Phase::inodes);
    case Phase::inodes:
      next_inodes();
      if (at_.inode > at_.last_inode) begin_phase(Phase::pins);
      return;
    case Phase::pins:
      return next_pins();
    case Phase::blocks:
      next_blocks();
      if (at_.block < volume_.data_area().end()) return;
      if (orphaned_.empty() && shared_.empty()) return begin_phase(Phase::done);
      // An operation that held something when this began has let go of it by now.
      owned_.clear();
      begin_phase(Phase::suspects);
      return check_places();
    case Phase::suspects:
      next_inodes();
      if (at_.inode <= at_.last_inode) return;
      judge_suspects();
      return begin_phase(Phase::done);
    case Phase::done:
      return;
  }
}

void Scrub::next_inodes() {
  const std::uint64_t end = std::min(at_.inode.value + kInodesAtOnce, at_.last_inode.value + 1);
  while (at_.inode.value < end) {
    if (!at_.directory_at) look_at(at_.inode);
    if (at_.directory_at) {
      if (look_at_directory(at_.inode)) return;
      at_.directory_at.reset();
    }
    ++at_.inode.value;
  }
}

void Scrub::found(std::string_view code, Severity severity, const std::string& object,
                  const std::string& text, Spreads spreads) {
  ++tally_.findings;
  if (spreads == Spreads::yes) {
    fs_.health().stop_changes(fmt::format("a scrub has found that {} {}", object, text));
  }
  if (tally_.findings > fsck::Report::kMostFindings) return;
  lines_ += line(
      {{"finding",
        {{"code", code}, {"severity", to_string(severity)}, {"object", object}, {"text", text}}}});
}

void Scrub::found(const fsck::Finding& finding) {
  found(to_string(finding.code), finding.severity, finding.object, finding.text);
}

std::string Scrub::progress() const {
  const auto at = [](std::string_view phase, std::uint64_t done, std::uint64_t total) {
    return line({{"progress", phase}, {"done", std::min(done, total)}, {"total", total}});
  };
  const PoolRange area = volume_.data_area();
  switch (at_.phase) {
    case Phase::pins:
      return at("pins", tally_.pins, at_.pins_to_look_at);
    case Phase::blocks:
      return at("blocks", (at_.block - area.start).value, area.count.value);
    case Phase::suspects:
      return at("once more", at_.inode.value - 1, at_.last_inode.value);
    default:
      return at("inodes", at_.inode.value - 1, at_.last_inode.value);
  }
}

std::string Scrub::summary() const {
  const std::string stopped = fs_.health().why_stopped();
  return line({{"summary",
                {{"clean", tally_.findings == 0},
                 {"found", tally_.findings},
                 {"files", tally_.files},
                 {"directories", tally_.directories},
                 {"pins", tally_.pins},
                 {"total", bytes(volume_.data_blocks()).value},
                 {"owned", bytes(tally_.claimed).value},
                 {"limbo", bytes(fs_.gate().totals().limbo).value},
                 {"free", bytes(volume_.allocator().free_blocks()).value},
                 {"stopped", stopped.empty() ? json(nullptr) : json(stopped)}}}});
}

}  // namespace daxfs
