#include "blockmap/journal.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "base/crc32c.h"
#include "base/require.h"

namespace daxfs {
namespace {

struct LaneHeader {
  std::uint32_t crc;
  std::uint32_t bytes;
  std::uint64_t sequence;
};
static_assert(sizeof(LaneHeader) == 16);

struct RecordHeader {
  std::uint64_t offset;
  std::uint32_t length;
  std::uint32_t reserved;
};
static_assert(sizeof(RecordHeader) == 16);

// What the first word of an empty lane holds.
constexpr std::uint64_t kEmptyLane = 0;

// Lanes are written in whole cache lines: a partial one would be read before it is written.
constexpr std::size_t kLineBytes = 64;

// What a change of names takes: one allocation instead of one a record.
constexpr std::size_t kUsualBytes = 1024;

constexpr std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

struct Record {
  PoolOffset to;
  std::span<const std::byte> data;
};

// Cuts the first record off `records`; nullopt if it does not hold together.
std::optional<Record> take_record(std::span<const std::byte>& records) {
  RecordHeader header;
  if (records.size() < sizeof header) return std::nullopt;
  std::memcpy(&header, records.data(), sizeof header);
  const std::size_t whole = sizeof header + round_up(header.length, 8);
  if (header.length == 0 || whole > records.size()) return std::nullopt;
  const auto data = records.subspan(sizeof header, header.length);
  records = records.subspan(whole);
  return Record{PoolOffset(header.offset), data};
}

std::uint32_t lane_crc(LaneHeader header, std::span<const std::byte> records) {
  header.crc = 0;
  return sealed_crc(records, crc32c(std::as_bytes(std::span(&header, 1))));
}

PoolOffset lane_start(const Journal::Geometry& geometry, std::uint32_t lane) {
  return geometry.start + ByteCount(std::uint64_t{lane} * geometry.lane_bytes);
}

std::uint64_t journal_bytes(const Journal::Geometry& geometry) {
  return std::uint64_t{geometry.lanes} * geometry.lane_bytes;
}

// A record must lie within the pool, and not in the journal: it would change a lane under replay.
bool may_change(const Medium& medium, const Journal::Geometry& geometry, const Record& record) {
  const std::uint64_t begin = record.to.value;
  const std::uint64_t length = record.data.size();
  if (begin > medium.size().value || length > medium.size().value - begin) return false;
  return begin + length <= geometry.start.value ||
         begin >= geometry.start.value + journal_bytes(geometry);
}

bool all_records_fit(const Medium& medium, const Journal::Geometry& geometry,
                     std::span<const std::byte> records) {
  while (!records.empty()) {
    const auto record = take_record(records);
    if (!record || !may_change(medium, geometry, *record)) return false;
  }
  return true;
}

void apply(Medium& medium, std::span<const std::byte> records) {
  while (!records.empty()) {
    const auto record = take_record(records);
    if (!record) return;
    medium.store(record->to, record->data);
  }
}

struct FoundLane {
  PoolOffset start;
  std::uint64_t sequence;
  std::span<const std::byte> records;  // empty: torn, that is, never committed
};

// What a lane that is not empty holds.
FoundLane read_lane(const Medium& medium, const Journal::Geometry& geometry, std::uint32_t lane) {
  const PoolOffset start = lane_start(geometry, lane);
  const auto header = medium.load<LaneHeader>(start);
  FoundLane found{start, header.sequence, {}};
  if (header.bytes != 0 && header.bytes <= geometry.lane_bytes - sizeof header) {
    const std::span records(medium.at(start) + sizeof header, header.bytes);
    if (header.crc == lane_crc(header, records)) found.records = records;
  }
  return found;
}

bool is_empty(const Medium& medium, const Journal::Geometry& geometry, std::uint32_t lane) {
  return medium.load<std::uint64_t>(lane_start(geometry, lane)) == kEmptyLane;
}

// Every lane that is not empty. Fails if a committed one cannot be replayed.
Outcome<std::vector<FoundLane>> scan(const Medium& medium, const Journal::Geometry& geometry) {
  const std::uint64_t size = medium.size().value;
  if (geometry.lanes == 0 || geometry.lane_bytes <= sizeof(LaneHeader) ||
      geometry.lane_bytes % kLineBytes != 0 || geometry.start.value % kLineBytes != 0 ||
      geometry.start.value > size || journal_bytes(geometry) > size - geometry.start.value) {
    return problem(EUCLEAN, "the journal does not lie within the pool; run fsck.daxfs");
  }
  std::vector<FoundLane> found;
  for (std::uint32_t lane = 0; lane < geometry.lanes; ++lane) {
    if (is_empty(medium, geometry, lane)) continue;
    found.push_back(read_lane(medium, geometry, lane));
    if (!all_records_fit(medium, geometry, found.back().records)) {
      return problem(EUCLEAN,
                     fmt::format("journal lane {}: a committed record points outside the pool; "
                                 "nothing was replayed; run fsck.daxfs",
                                 lane));
    }
  }
  return found;
}

std::uint32_t committed(const std::vector<FoundLane>& lanes) {
  return static_cast<std::uint32_t>(
      std::ranges::count_if(lanes, [](const FoundLane& lane) { return !lane.records.empty(); }));
}

}  // namespace

void Transaction::write(PoolOffset to, std::span<const std::byte> data) {
  if (data.empty()) return;
  // The limit is far above any lane; without it the length below could be cut silently.
  DAXFS_REQUIRE(data.size() <= UINT32_MAX / 2, "journal: a record of {} bytes", data.size());
  const RecordHeader header{to.value, static_cast<std::uint32_t>(data.size()), 0};
  const auto header_bytes = std::as_bytes(std::span(&header, 1));
  if (log_.empty()) log_.reserve(kUsualBytes);
  log_.insert(log_.end(), header_bytes.begin(), header_bytes.end());
  log_.insert(log_.end(), data.begin(), data.end());
  log_.resize(round_up(log_.size(), 8));
}

// A lane of one's own, from construction to destruction.
class Journal::LaneGuard {
 public:
  explicit LaneGuard(Journal& journal) : journal_(journal) {
    const MutexLock lock(journal_.mutex_);
    while (journal_.free_lanes_.empty()) journal_.lane_freed_.wait(journal_.mutex_);
    // The lane used last is the one that is still in the caches.
    lane_ = journal_.free_lanes_.back();
    journal_.free_lanes_.pop_back();
    sequence_ = journal_.next_sequence_++;
  }
  ~LaneGuard() {
    {
      const MutexLock lock(journal_.mutex_);
      journal_.free_lanes_.push_back(lane_);
    }
    journal_.lane_freed_.notify_one();
  }
  LaneGuard(const LaneGuard&) = delete;
  LaneGuard& operator=(const LaneGuard&) = delete;

  std::uint32_t lane() const { return lane_; }
  std::uint64_t sequence() const { return sequence_; }

 private:
  Journal& journal_;
  std::uint32_t lane_;
  std::uint64_t sequence_;
};

Journal::Journal(Medium& medium, Geometry geometry)
    : medium_(medium), geometry_(geometry), images_(geometry.lanes) {
  DAXFS_REQUIRE(geometry.lane_bytes % kLineBytes == 0 && geometry.start.value % kLineBytes == 0,
                "journal: lanes of {} bytes from {} on are no cache lines", geometry.lane_bytes,
                geometry.start.value);
  for (std::uint32_t lane = geometry.lanes; lane > 0; --lane) free_lanes_.push_back(lane - 1);
}

std::size_t Journal::capacity() const { return geometry_.lane_bytes - sizeof(LaneHeader); }

Status Journal::commit(const Transaction& transaction) {
  // What this change relies on (its data, what was committed before) may be lost already.
  if (medium_.failed()) return fail(EIO);
  if (transaction.empty()) return {};
  const std::span<const std::byte> records(transaction.log_);
  DAXFS_REQUIRE(records.size() <= capacity(),
                "journal: a transaction of {} bytes exceeds the capacity of a lane, {} bytes",
                records.size(), capacity());
  DAXFS_REQUIRE(all_records_fit(medium_, geometry_, records),
                "journal: a transaction writes outside the pool or into the journal");

  const LaneGuard guard(*this);
  LaneHeader header{0, static_cast<std::uint32_t>(records.size()), guard.sequence()};
  header.crc = lane_crc(header, records);

  std::vector<std::byte>& image = images_[guard.lane()];
  image.resize(round_up(sizeof header + records.size(), kLineBytes));
  std::memcpy(image.data(), &header, sizeof header);
  std::ranges::copy(records, image.begin() + sizeof header);
  const std::size_t end = sizeof header + records.size();
  std::fill(image.begin() + static_cast<std::ptrdiff_t>(end), image.end(), std::byte{0});

  const PoolOffset start = lane_start(geometry_, guard.lane());
  medium_.write(start, image);
  medium_.fence();
  if (medium_.failed()) return fail(EIO);
  apply(medium_, records);
  medium_.fence();
  // A part of it may be lost: the lane alone still has all of it.
  if (medium_.failed()) return fail(EIO);
  // Past the caches, as the lane was written: a store would have to fetch the line first.
  medium_.write(start, std::as_bytes(std::span(&kEmptyLane, 1)));
  medium_.fence();
  // Whatever became of these last two: a lane that is played again changes nothing.
  return {};
}

Outcome<std::uint32_t> Journal::recover(Medium& medium, Geometry geometry) {
  auto lanes = scan(medium, geometry);
  if (!lanes) return std::unexpected(std::move(lanes.error()));
  if (lanes->empty()) return 0;
  // Any order would do; the order of the commits is the one that people expect.
  std::ranges::sort(*lanes, {}, &FoundLane::sequence);
  const std::uint32_t replayed = committed(*lanes);
  for (const FoundLane& lane : *lanes) apply(medium, lane.records);
  medium.fence();
  for (const FoundLane& lane : *lanes) medium.store_u64(lane.start, 0);
  medium.fence();
  return replayed;
}

Outcome<std::uint32_t> Journal::pending(const Medium& medium, Geometry geometry) {
  auto lanes = scan(medium, geometry);
  if (!lanes) return std::unexpected(std::move(lanes.error()));
  return committed(*lanes);
}

std::vector<std::uint32_t> Journal::unplayable(const Medium& medium, Geometry geometry) {
  std::vector<std::uint32_t> lanes;
  for (std::uint32_t lane = 0; lane < geometry.lanes; ++lane) {
    if (!is_empty(medium, geometry, lane) &&
        !all_records_fit(medium, geometry, read_lane(medium, geometry, lane).records)) {
      lanes.push_back(lane);
    }
  }
  return lanes;
}

std::vector<std::uint32_t> Journal::left_over() const {
  std::vector<std::uint32_t> lanes;
  const MutexLock lock(mutex_);
  for (const std::uint32_t lane : free_lanes_) {
    if (!is_empty(medium_, geometry_, lane) &&
        !read_lane(medium_, geometry_, lane).records.empty()) {
      lanes.push_back(lane);
    }
  }
  return lanes;
}

void Journal::discard(Medium& medium, Geometry geometry, std::uint32_t lane) {
  medium.store_u64(lane_start(geometry, lane), kEmptyLane);
  medium.fence();
}

void Journal::format(Medium& medium, Geometry geometry) {
  medium.zero(geometry.start, ByteCount(journal_bytes(geometry)));
}

}  // namespace daxfs
