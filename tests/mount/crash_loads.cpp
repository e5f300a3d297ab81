#include "tests/mount/crash_loads.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "tests/mount/file_helpers.h"

namespace daxfs::test {
namespace {

constexpr unsigned kNames = 300;
constexpr std::size_t kFileBlocks = 400;

int error_of(long result) { return result < 0 ? errno : 0; }

std::string described(const std::string& name, char type, unsigned id) {
  return name + " " + type + " " + std::to_string(id) + "\n";
}

std::string block_content(std::size_t block, unsigned generation) {
  if (generation == 0) return std::string(kBlock, '\0');
  return pattern(kBlock, static_cast<unsigned>(block) * 1'000'003u + generation);
}

}  // namespace

std::string NamesLoad::name() { return "name-" + std::to_string(random_() % kNames); }

NamesLoad::Operation NamesLoad::next() {
  for (;;) {
    Operation operation{static_cast<Kind>(random_() % 6), name(), name(), 0};
    const auto found = nodes_.find(operation.name);
    const bool exists = found != nodes_.end();
    const auto other = nodes_.find(operation.other);
    switch (operation.kind) {
      case Kind::file:
      case Kind::symlink:
      case Kind::directory:
        if (exists) continue;
        operation.id = ++last_id_;
        // A file's mode has only so much room.
        if (operation.kind == Kind::file) operation.id %= 512;
        if (operation.kind == Kind::directory) operation.id = 0;
        return operation;
      case Kind::link:
        if (!exists || found->second.type == 'd' || other != nodes_.end()) continue;
        return operation;
      case Kind::rename:
        if (!exists || operation.name == operation.other) continue;
        if (other != nodes_.end()) {
          if ((found->second.type == 'd') != (other->second.type == 'd')) continue;
          // They may be two names of one file: then nothing would happen.
          if (found->second.type == other->second.type && found->second.id == other->second.id &&
              found->second.type != 'd') {
            continue;
          }
        }
        return operation;
      case Kind::remove:
        if (!exists) continue;
        return operation;
    }
  }
}

int NamesLoad::perform(const std::string& directory, const Operation& operation) {
  const std::string path = directory + "/" + operation.name;
  const std::string other = directory + "/" + operation.other;
  switch (operation.kind) {
    case Kind::file:
      return error_of(mknod(path.c_str(), S_IFREG | operation.id, 0));
    case Kind::symlink:
      return error_of(symlink(std::to_string(operation.id).c_str(), path.c_str()));
    case Kind::directory:
      return error_of(mkdir(path.c_str(), 0755));
    case Kind::link:
      return error_of(link(path.c_str(), other.c_str()));
    case Kind::rename:
      return error_of(rename(path.c_str(), other.c_str()));
    case Kind::remove:
      return error_of(remove(path.c_str()));
  }
  return EINVAL;
}

void NamesLoad::done(const Operation& operation) {
  switch (operation.kind) {
    case Kind::file:
      nodes_[operation.name] = {'f', operation.id};
      break;
    case Kind::symlink:
      nodes_[operation.name] = {'l', operation.id};
      break;
    case Kind::directory:
      nodes_[operation.name] = {'d', 0};
      break;
    case Kind::link:
      nodes_[operation.other] = nodes_.at(operation.name);
      break;
    case Kind::rename:
      nodes_[operation.other] = nodes_.at(operation.name);
      nodes_.erase(operation.name);
      break;
    case Kind::remove:
      nodes_.erase(operation.name);
      break;
  }
}

std::string NamesLoad::seen(const std::string& directory) {
  std::vector<std::string> lines;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    struct stat status {};
    if (lstat(entry.path().c_str(), &status) != 0) {
      lines.push_back(entry.path().filename().string() + " cannot be looked at\n");
      continue;
    }
    const char type = S_ISDIR(status.st_mode) ? 'd' : S_ISLNK(status.st_mode) ? 'l' : 'f';
    unsigned id = 0;
    if (type == 'f') id = status.st_mode & 0777;
    if (type == 'l') {
      id = static_cast<unsigned>(std::stoul(std::filesystem::read_symlink(entry.path()).string()));
    }
    lines.push_back(described(entry.path().filename().string(), type, id));
  }
  std::sort(lines.begin(), lines.end());
  std::string text;
  for (const std::string& line : lines) text += line;
  return text;
}

std::string NamesLoad::expected() const {
  std::vector<std::string> lines;
  for (const auto& [name, node] : nodes_) lines.push_back(described(name, node.type, node.id));
  std::sort(lines.begin(), lines.end());
  std::string text;
  for (const std::string& line : lines) text += line;
  return text;
}

DataLoad::Operation DataLoad::next() {
  const auto dice = random_() % 20;
  Operation operation{Kind::write, random_() % kFileBlocks, 1 + random_() % 8, ++generation_};
  if (dice == 0) {
    operation.kind = Kind::truncate;
    operation.count = 0;
  } else if (dice < 5) {
    operation.kind = Kind::punch;
    operation.count = 1 + random_() % 50;
  }
  return operation;
}

int DataLoad::perform(const std::string& path, const Operation& operation) const {
  const bool direct = way_ == Way::direct;
  const UniqueFd fd(
      open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | (direct ? O_DIRECT : 0), 0644));
  if (!fd) return errno;
  const auto start = static_cast<off_t>(operation.first * kBlock);
  switch (operation.kind) {
    case Kind::truncate:
      return error_of(ftruncate(fd.get(), start));
    case Kind::punch:
      return error_of(fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start,
                                static_cast<off_t>(operation.count * kBlock)));
    case Kind::write:
      break;
  }
  AlignedBuffer data(operation.count * kBlock);
  for (std::size_t i = 0; i < operation.count; ++i) {
    block_content(operation.first + i, operation.generation).copy(data.data() + i * kBlock, kBlock);
  }
  const ssize_t written = pwrite(fd.get(), data.data(), data.view().size(), start);
  if (written < 0) return errno;
  if (written != static_cast<ssize_t>(data.view().size())) return EIO;
  return direct ? 0 : error_of(fsync(fd.get()));
}

void DataLoad::done(const Operation& operation) {
  const std::size_t end = operation.first + operation.count;
  switch (operation.kind) {
    case Kind::write:
      if (blocks_.size() < end) blocks_.resize(end);
      std::fill_n(blocks_.begin() + static_cast<std::ptrdiff_t>(operation.first), operation.count,
                  operation.generation);
      break;
    case Kind::punch:
      for (std::size_t i = operation.first; i < std::min(end, blocks_.size()); ++i) blocks_[i] = 0;
      break;
    case Kind::truncate:
      blocks_.resize(operation.first);
      break;
  }
}

bool DataLoad::touches(const Operation& operation, std::size_t block) const {
  if (operation.kind == Kind::truncate) return block >= operation.first;
  return block >= operation.first && block < operation.first + operation.count;
}

std::string DataLoad::check(const std::string& path, const Operation& pending) const {
  const std::string data = std::filesystem::exists(path) ? read_file(path) : "";
  DataLoad after = *this;
  after.done(pending);
  // A write of several blocks may have come half-way, and so made the file a part of it longer.
  const std::size_t size = data.size() / kBlock;
  const auto [least, most] = std::minmax({blocks_.size(), after.blocks_.size()});
  if (data.size() % kBlock != 0 || size < least || size > most) {
    return "the file has " + std::to_string(data.size()) + " bytes";
  }
  bool all_old = true;
  bool all_new = true;
  for (std::size_t i = 0; i < most; ++i) {
    const std::string block = i < size ? data.substr(i * kBlock, kBlock) : block_content(i, 0);
    const bool old_one = block == block_content(i, i < blocks_.size() ? blocks_[i] : 0);
    if (!touches(pending, i)) {
      if (!old_one) return "block " + std::to_string(i) + " is not what was acknowledged";
      continue;
    }
    all_old = all_old && old_one;
    all_new = all_new && block == block_content(i, i < after.blocks_.size() ? after.blocks_[i] : 0);
  }
  if (pending.kind != Kind::write && !all_old && !all_new) return "a detach was done by halves";
  return "";
}

}  // namespace daxfs::test
