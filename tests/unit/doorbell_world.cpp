#include "tests/unit/doorbell_world.h"

#include <algorithm>
#include <chrono>
#include <shared_mutex>
#include <thread>

namespace daxfs::test {
namespace {

using doorbell::Page;

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kSeqCst = std::memory_order_seq_cst;

// Once in so many times.
bool chance(std::minstd_rand& random, unsigned times) { return random() % times == 0; }

}  // namespace

DoorbellWorld::DoorbellWorld(const Mistakes& mistakes, std::uint64_t seed)
    : mistakes_(mistakes), rare_(mistakes == Mistakes{} ? 1000 : 50), seeds_(seed) {
  for (std::size_t block = 1; block < kBlocks; ++block) {
    blocks_[block].fill(kOther << 32);
    others_.push_back(block);
  }
  blocks_[file_].fill(kFile << 32);
  doorbells_ = std::make_unique<Doorbells>(
      [this](const AttachedProcess& process) { return has_ended(process); });
  make_doorbell();
}

void DoorbellWorld::run(unsigned clients, std::uint64_t detaches, double most_seconds) {
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < clients; ++i) threads.emplace_back([this, i] { client(i); });
  at_work_ = 2;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([this, detaches, seed = seeds_()] { detacher(seed, detaches); });
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(most_seconds);
  while (at_work_ != 0 && complaint().empty() && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  stop_ = true;
  for (std::thread& thread : threads) thread.join();
  for (const std::size_t block : others_) look_at(blocks_[block], kClients, "at the end");
}

std::string DoorbellWorld::complaint() const {
  const std::lock_guard lock(mutex_);
  return complaint_;
}

void DoorbellWorld::complain(const std::string& what) {
  const std::lock_guard lock(mutex_);
  if (complaint_.empty()) complaint_ = what;
}

// --- clients ---

void DoorbellWorld::client(unsigned number) {
  Client client{.number = number, .life = 1, .random = Random(number + 1)};
  while (!ends()) {
    if (chance(client.random, rare_)) std::this_thread::yield();
    if (client.slot == nullptr || client.block == kBlocks) {
      ask(client);
    } else if (take(client)) {
      copy(client);
    } else {
      seen_.closed.fetch_add(1, kRelaxed);
      client.block = kBlocks;
    }
  }
}

// With the inode's lock held.
void DoorbellWorld::attach(Client& client) {
  if (client.slot != nullptr) doorbell::release(*client.slot, client.attachment);
  Recorded& record = recorded_.back();
  client.page = record.page.get();
  client.daemon = daemon_;
  AttachedProcess process;
  process.owner.process = static_cast<pid_t>(client.number + 1);
  process.owner.start_time = client.life;
  const auto attachment = doorbells_->attach(*client.page, process);
  if (!attachment) return complain("attach() failed");
  client.attachment = *attachment;
  {
    const std::lock_guard lock(mutex_);
    record.attached.emplace_back(client.attachment, process);
  }
  client.slot = doorbell::claim(*client.page, client.attachment);
  // Both kinds of counting meet the same daemon.
  static const bool barriers = doorbell::ask_for_barriers();
  client.how =
      barriers && chance(client.random, 2) ? doorbell::Counting::alone : doorbell::Counting::shared;
  client.shown = !mistakes_.slot_is_shown_late;
  if (!client.shown && client.slot != nullptr) {
    // As if claim() had not set it.
    const auto bit = std::uint64_t{1} << (client.slot - client.page->slots);
    client.page->used.store(client.page->used.load(kSeqCst) & ~bit, kSeqCst);
  }
}

// A system call; where there is nothing to be had, the daemon copies.
void DoorbellWorld::ask(Client& client) {
  std::shared_lock lock(inode_lock_);
  if (client.slot == nullptr || client.daemon != daemon_) attach(client);
  if (client.slot == nullptr) doorbells_->sweep();  // the next time there is one
  if (const auto epoch = doorbells_->epoch()) {
    client.epoch = *epoch;
    client.block = file_;
  } else {
    look_at(blocks_[file_], client.number, "by system call");
    seen_.slow.fetch_add(1, kRelaxed);
    lock.unlock();
    std::this_thread::yield();
  }
}

bool DoorbellWorld::take(Client& client) {
  doorbell::Slot& slot = *client.slot;
  if (mistakes_.no_recheck) {
    slot.count.add(1, kSeqCst);
    return true;
  }
  if (mistakes_.check_before_the_count) {
    if (client.page->epoch.load(kSeqCst) != client.epoch) return false;
    if (chance(client.random, 100)) std::this_thread::yield();
    slot.count.add(1, kSeqCst);
    return true;
  }
  return doorbell::take(*client.page, slot, client.epoch, client.how);
}

void DoorbellWorld::copy(Client& client) {
  if (mistakes_.give_back_early) doorbell::give_back(*client.slot);
  if (!client.shown) std::this_thread::yield();
  touch(client);
  if (chance(client.random, rare_)) {
    std::this_thread::yield();
    touch(client);
  }
  if (chance(client.random, 20'000)) {
    stop_for_a_while();
    touch(client);
  }
  if (!client.shown) {
    client.page->used.set_bits(std::uint64_t{1} << (client.slot - client.page->slots), kSeqCst);
    client.shown = true;
  }
  seen_.copies.fetch_add(1, kRelaxed);
  if (chance(client.random, mistakes_.slot_is_shown_late ? 20 : 3 * rare_)) return die(client);
  if (!mistakes_.give_back_early) doorbell::give_back(*client.slot, client.how);
  // Memory that nobody is told of: what was known of the file may be old by the next copy.
  if (chance(client.random, 100)) client.block = kBlocks;
}

// Reads its own part of the block, and writes it.
void DoorbellWorld::touch(Client& client) {
  Block& block = blocks_[client.block];
  look_at(block, client.number, "in a copy");
  for (std::size_t i = 0; i < kShare; ++i) {
    block[client.number * kShare + i] = kFile << 32 | (client.random() & 0xffff);
  }
}

// That the part of this client is the file's; for kClients, that all of the block is another
// owner's.
void DoorbellWorld::look_at(const Block& block, unsigned client, const char* who) {
  const bool whole = client == kClients;
  const auto begin = block.begin() + (whole ? 0 : client * kShare);
  const auto end = whole ? block.end() : begin + kShare;
  const std::uint64_t owner = whole ? kOther : kFile;
  if (std::all_of(begin, end, [&](std::uint64_t word) { return word >> 32 == owner; })) return;
  complain(std::string(whole ? "the file's bytes in a block of another owner"
                             : "another owner's bytes in a block of the file") +
           ", seen " + who);
}

// SIGSTOP, in the middle of a copy.
void DoorbellWorld::stop_for_a_while() {
  seen_.stops.fetch_add(1, kRelaxed);
  const std::uint64_t until = answers_.load(kRelaxed) + 3;
  while (!ends() && answers_.load(kRelaxed) < until) std::this_thread::yield();
}

// SIGKILL, in the middle of a copy; then another process has the number.
void DoorbellWorld::die(Client& client) {
  {
    const std::lock_guard lock(mutex_);
    dead_.emplace(client.number + 1, client.life);
  }
  seen_.deaths.fetch_add(1, kRelaxed);
  client = Client{.number = client.number, .life = client.life + 1, .random = client.random};
}

bool DoorbellWorld::has_ended(const AttachedProcess& process) {
  if (mistakes_.judged_by_the_number) return false;
  if (mistakes_.stopped_is_dead) return true;
  const std::lock_guard lock(mutex_);
  return dead_.contains({static_cast<unsigned>(process.owner.process), process.owner.start_time});
}

// --- the daemon ---

// With the inode's lock held, or alone.
void DoorbellWorld::make_doorbell() {
  recorded_.emplace_back().page = std::make_unique<Page>();
  doorbells_->add(*recorded_.back().page);
}

void DoorbellWorld::detacher(std::uint64_t seed, std::uint64_t detaches) {
  Random random(static_cast<Random::result_type>(seed));
  while (!ends() && seen_.detaches.load(kRelaxed) < detaches) {
    detach(random);
    // Clients come in again, and are at it when the next one begins.
    const std::uint64_t until = seen_.copies.load(kRelaxed) + random() % 32;
    for (unsigned i = 1; i < 4096 && !ends() && seen_.copies.load(kRelaxed) < until; ++i) {
      if (i % 64 == 0) std::this_thread::yield();
    }
  }
  --at_work_;
}

void DoorbellWorld::detach(Random& random) {
  std::unique_lock lock(inode_lock_);
  look_at_limbo();
  const std::uint64_t daemon = daemon_;
  bool closed = false;
  for (unsigned looks = 0;; ++looks) {
    if (!closed) doorbells_->close();
    closed = true;
    if (chance(random, rare_ / 2)) return mount();  // killed with its work half done
    if (looks_quiet()) {
      take_block(random, {});
      break;
    }
    if (looks > 8) {
      if (!time_is_up(random)) break;
      continue;  // it has ended at the last moment
    }
    // Parked. Whatever may happen meanwhile, the next look begins from the beginning.
    seen_.waits.fetch_add(1, kRelaxed);
    lock.unlock();
    std::this_thread::yield();
    lock.lock();
    if (daemon != daemon_) return;  // nobody is left to answer
  }
  doorbells_->open();
  answers_.fetch_add(1, kRelaxed);
}

bool DoorbellWorld::looks_quiet() { return doorbells_->quiet() || doorbells_->in_flight().empty(); }

// short_timeout has passed. False: the request is answered.
bool DoorbellWorld::time_is_up(Random& random) {
  const std::vector<CopiesInFlight> copies = doorbells_->in_flight();
  if (copies.empty()) return true;
  for (const CopiesInFlight& one : copies) {
    const std::lock_guard lock(mutex_);
    if (dead_.contains(
            {static_cast<unsigned>(one.process.owner.process), one.process.owner.start_time}) &&
        mistakes_.judged_by_the_number && complaint_.empty()) {
      complaint_ = "a detach waits for a process that is dead";
    }
  }
  if (chance(random, 2) || others_.size() < 3) {
    seen_.refused.fetch_add(1, kRelaxed);
    return false;
  }
  take_block(random, copies);
  seen_.deferred.fetch_add(1, kRelaxed);
  return false;
}

// The block of the file becomes another owner's, or goes to limbo; the file gets another one.
void DoorbellWorld::take_block(Random& random, const std::vector<CopiesInFlight>& copies) {
  const std::size_t taken = file_;
  const std::size_t which = random() % others_.size();
  file_ = others_[which];
  look_at(blocks_[file_], kClients, "when it came to the file");
  blocks_[file_].fill(kFile << 32);
  if (copies.empty()) {
    blocks_[taken].fill(kOther << 32);
    others_[which] = taken;
    seen_.detaches.fetch_add(1, kRelaxed);
  } else {
    others_.erase(others_.begin() + static_cast<std::ptrdiff_t>(which));
    limbo_.push_back({taken, copies});
  }
}

void DoorbellWorld::look_at_limbo() {
  std::erase_if(limbo_, [&](Limbo& limbo) {
    std::erase_if(limbo.copies,
                  [&](const CopiesInFlight& copies) { return doorbells_->have_ended(copies); });
    if (!limbo.copies.empty()) return false;
    blocks_[limbo.block].fill(kOther << 32);
    others_.push_back(limbo.block);
    return true;
  });
}

// The daemon was killed; the next one finds what is recorded. With the inode's lock held: the
// threads of the former daemon are no more.
void DoorbellWorld::mount() {
  ++daemon_;
  seen_.mounts.fetch_add(1, kRelaxed);
  doorbells_ = std::make_unique<Doorbells>(
      [this](const AttachedProcess& process) { return has_ended(process); });
  for (const Recorded& record : recorded_) {
    if (!mistakes_.not_recorded) doorbells_->add_former(*record.page, record.attached);
  }
  if (mistakes_.limbo_is_not_recorded) {
    for (Limbo& limbo : limbo_) limbo.copies.clear();
  }
  look_at_limbo();
  make_doorbell();
}

}  // namespace daxfs::test
