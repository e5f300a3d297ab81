// bench-client: the loops that tools/bench times. Each command does one thing to files of a mount
// and prints one JSON object: operations, rate, and the latency's median and 99th percentile. It
// starts in a millisecond, so that tools/bench can alternate between filesystems often.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "tools/benchmark/bench_commands.h"

namespace daxfs::bench {
namespace {

// One option struct per command, living as long as the parser.
struct Commands {
  IoOptions io;
  FillOptions fill;
  MetaOptions meta;
  PinOptions pin;
  HoldOptions hold;
  PunchOptions punch;
  WaitOptions wait;
  DirectOptions direct;
};

void describe(CLI::App& app, Commands& commands) {
  app.require_subcommand(1);
  CLI::App* io = app.add_subcommand("io", "read or write blocks of a file");
  io->add_option("--file", commands.io.file)->required();
  io->add_flag("--write", commands.io.write);
  io->add_flag("--random", commands.io.random);
  io->add_flag("--direct", commands.io.direct, "O_DIRECT");
  io->add_flag("--cold", commands.io.cold, "drop the page cache first, each block at most once");
  io->add_option("--block", commands.io.block, "bytes")->check(CLI::Range(kBlock, kBlock << 20));
  io->add_option("--region", commands.io.region, "bytes at the file's beginning");
  io->add_option("--jobs", commands.io.jobs)->check(CLI::Range(1, 1024));
  io->add_option("--seconds", commands.io.seconds);
  io->add_option("--cpus", commands.io.cpus, "one for each job")->delimiter(',');
  io->callback([&commands] { run_io(commands.io); });

  CLI::App* fill = app.add_subcommand("fill", "make a file");
  fill->add_option("--file", commands.fill.file)->required();
  fill->add_option("--blocks", commands.fill.blocks)->required();
  fill->add_flag("--sparse", commands.fill.sparse, "a hole after each block");
  fill->callback([&commands] { run_fill(commands.fill); });

  CLI::App* meta = app.add_subcommand("meta", "create, stat, rename and unlink files");
  meta->add_option("--dir", commands.meta.directory)->required();
  meta->add_option("--files", commands.meta.files);
  meta->add_option("--bytes", commands.meta.bytes, "in each file")
      ->check(CLI::Range(std::uint64_t{0}, kBlock));
  meta->callback([&commands] { run_meta(commands.meta); });

  CLI::App* pin = app.add_subcommand("pin", "pin and unpin a block");
  pin->add_option("--file", commands.pin.file)->required();
  pin->add_option("--seconds", commands.pin.seconds);
  pin->callback([&commands] { run_pin(commands.pin); });

  CLI::App* hold = app.add_subcommand("hold", "hold many pins until the standard input ends");
  hold->add_option("--file", commands.hold.file)->required();
  hold->add_option("--pins", commands.hold.pins)->required();
  hold->callback([&commands] { run_hold(commands.hold); });

  CLI::App* punch = app.add_subcommand("punch", "punch a block out of a file");
  punch->add_option("--file", commands.punch.file)->required();
  punch->add_flag("--sparse", commands.punch.sparse);
  punch->add_option("--seconds", commands.punch.seconds);
  punch->callback([&commands] { run_punch(commands.punch); });

  CLI::App* wait = app.add_subcommand("wait", "punches that wait until the standard input ends");
  wait->add_option("--dir", commands.wait.directory)->required();
  wait->add_option("--waiters", commands.wait.waiters)->check(CLI::Range(1, 10000));
  wait->callback([&commands] { run_wait(commands.wait); });

  CLI::App* direct = app.add_subcommand("direct", "direct access beside a copy, FUSE and tmpfs");
  direct->add_option("--file", commands.direct.file, "in a mount with the option direct")
      ->required();
  direct->add_option("--beside", commands.direct.beside, "a file on tmpfs")->required();
  direct->add_flag("--write", commands.direct.write);
  direct->add_option("--bytes", commands.direct.bytes)->check(CLI::Range(kBlock / 64, kBlock << 8));
  direct->add_option("--region", commands.direct.region);
  direct->add_option("--seconds", commands.direct.seconds);
  direct->callback([&commands] { run_direct(commands.direct); });
}

}  // namespace
}  // namespace daxfs::bench

int main(int argc, char** argv) {
  try {
    CLI::App app("The timed loops of tools/bench; prints JSON.", "bench-client");
    daxfs::bench::Commands commands;
    daxfs::bench::describe(app, commands);
    CLI11_PARSE(app, argc, argv);
    return EXIT_SUCCESS;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench-client: %s\n", error.what());
    return EXIT_FAILURE;
  }
}
