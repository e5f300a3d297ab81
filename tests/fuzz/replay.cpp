// Runs a fuzz target without a fuzzer: over its seeds, a few mutations of each, and the files and
// directories given (inputs that were findings once).
//
//   replay_TARGET [--keep FILE] [PATH...]    FILE: what ran last, so the input that is a finding
//   replay_TARGET --only PATH...             without the seeds
//   replay_TARGET --write-seeds DIRECTORY    runs nothing
//
// DAXFS_FUZZ_MUTATIONS, of each seed, makes it a fuzzer of sorts where there is no other.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/fuzz/target.h"

namespace {

namespace files = std::filesystem;
using Named = std::pair<std::string, std::string>;

unsigned mutations_of_each() {
  const char* const text = std::getenv("DAXFS_FUZZ_MUTATIONS");
  return text == nullptr ? 8 : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

std::vector<Named> seeds() {
  std::vector<Named> out;
  daxfs::fuzz::make_seeds(
      [&](const std::string& name, const std::string& bytes) { out.emplace_back(name, bytes); });
  return out;
}

std::vector<Named> read_all(const files::path& path) {
  std::vector<Named> out;
  const auto read = [&](const files::path& file) {
    std::ifstream in(file, std::ios::binary);
    if (!in) throw std::runtime_error("cannot read " + file.string());
    out.emplace_back(file.string(), std::string(std::istreambuf_iterator<char>(in), {}));
  };
  if (files::is_directory(path)) {
    for (const auto& entry : files::directory_iterator(path)) read(entry.path());
  } else {
    read(path);
  }
  std::ranges::sort(out);
  return out;
}

void write_all(const files::path& directory, const std::vector<Named>& inputs) {
  files::create_directories(directory);
  for (const auto& [name, bytes] : inputs) {
    std::ofstream out(directory / name, std::ios::binary);
    if (!(out << bytes)) throw std::runtime_error("cannot write to " + directory.string());
  }
}

// So that what follows the seeds is walked as well, a little. The same each time.
std::string mutated(std::string bytes, unsigned number) {
  std::mt19937_64 random(number);
  for (std::uint64_t n = 1 + random() % 8; n > 0 && !bytes.empty(); --n) {
    bytes[random() % bytes.size()] = static_cast<char>(random());
  }
  for (std::uint64_t n = random() % 64; n > 0; --n) bytes += static_cast<char>(random());
  return bytes;
}

// Where each input is written before it runs; empty: nowhere.
std::string keep;

void run(const std::string& name, const std::string& bytes) {
  if (!keep.empty()) std::ofstream(keep, std::ios::binary) << bytes;
  // Flushed, since a finding ends the program: the last line names it.
  std::printf("%s\n", name.c_str());
  std::fflush(stdout);
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
}

void run_seeds() {
  run("nothing at all", "");
  const unsigned mutations = mutations_of_each();
  for (const auto& [name, bytes] : seeds()) {
    run(name, bytes);
    for (unsigned i = 0; i < mutations; ++i) {
      run(name + ", mutation " + std::to_string(i), mutated(bytes, i));
    }
  }
}

}  // namespace

int main(int argc, char** argv) try {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.size() == 2 && arguments[0] == "--write-seeds") {
    write_all(arguments[1], seeds());
    return 0;
  }
  if (arguments.size() >= 2 && arguments[0] == "--keep") {
    keep = arguments[1];
    arguments.erase(arguments.begin(), arguments.begin() + 2);
  }
  const bool only = !arguments.empty() && arguments[0] == "--only";
  if (only) {
    arguments.erase(arguments.begin());
  } else {
    run_seeds();
  }
  for (const std::string& path : arguments) {
    for (const auto& [name, bytes] : read_all(path)) run(name, bytes);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "replay: %s\n", error.what());
  return 2;
}
