// daxfsctl: shows what a mounted daxfs is doing, and switches its policies.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "tools/ctl/events.h"
#include "tools/ctl/scrub.h"
#include "tools/ctl/serve.h"
#include "tools/ctl/top.h"
#include "tools/ctl/views.h"
#include "tools/ctl/waiting.h"
#include "tools/standard_streams.h"
#include "tools/usage.h"

namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;
constexpr int kDamaged = 4;  // as fsck.daxfs

struct Command {
  const char* name;
  const char* path_help;
  const char* help;
  daxfs::Outcome<void> (*show)(const std::string& path, bool json);
};

constexpr const char* kAnyPath = "the mount point, or any path in the mount";

constexpr const char* kPolicy = "policy";
constexpr const char* kScrub = "scrub";
constexpr const char* kRelease = "release";
constexpr const char* kTop = "top";
constexpr const char* kServe = "serve";

constexpr Command kCommands[] = {
    {"status", kAnyPath, "pool, space, pins and policy of a mount", daxfs::ctl::show_status},
    {"pins", kAnyPath, "who has pinned which range of which file", daxfs::ctl::show_pins},
    {"leases", kAnyPath, "which holders are told before which range of which file changes",
     daxfs::ctl::show_leases},
    {"limbo", kAnyPath, "blocks that were taken out of files while they were pinned",
     daxfs::ctl::show_limbo},
    {"attached", kAnyPath, "which programs copy from and into files by themselves",
     daxfs::ctl::show_attached},
    {"waiting", kAnyPath, "which requests wait, and for whom", daxfs::ctl::show_waiting},
    {kPolicy, kAnyPath, "how the mount treats pins; sets it", daxfs::ctl::show_policy},
    {"extents", "a regular file in the mount",
     "where a file's blocks lie, and how often each is pinned", daxfs::ctl::show_extents},
    {"events", kAnyPath,
     "each pin, lease, break and waiting request as it happens, until interrupted",
     daxfs::ctl::show_events},
};

// `set SETTING...` as the settings; nothing if it is not that.
std::optional<std::string> settings_of(const std::vector<std::string>& words) {
  if (words.size() < 2 || words.front() != "set") return std::nullopt;
  return fmt::format("{}", fmt::join(words.begin() + 1, words.end(), " "));
}

void add_views(CLI::App& app, std::string& path, std::vector<std::string>& change, bool& json) {
  for (const Command& command : kCommands) {
    CLI::App* sub = app.add_subcommand(command.name, command.help);
    sub->add_option("PATH", path, command.path_help)->required();
    if (command.name == kPolicy) {
      sub->add_option(
          "CHANGE", change,
          "set SETTING...: such as `set defer`, or `set pin_policy=wait "
          "wait_timeout=5s`; all or nothing, at once, also for requests that wait already");
    }
    sub->add_flag("--json", json, "print JSON (sizes in bytes, times in seconds)");
  }
}

void add_scrub(CLI::App& app, std::string& path, bool& json) {
  CLI::App* scrub = app.add_subcommand(kScrub, "checks the filesystem while it is in use");
  scrub->add_option("PATH", path, kAnyPath)->required();
  scrub->add_flag("--json", json, "print JSON (sizes in bytes)");
}

void add_top(CLI::App& app, std::string& path, daxfs::ctl::TopOptions& options) {
  using daxfs::ctl::TopOrder;
  CLI::App* const top =
      app.add_subcommand(kTop, "who holds and who waits, again and again, until q is pressed");
  top->add_option("PATH", path, kAnyPath)->required();
  top->add_option_function<double>(
         "--interval",
         [&options](double seconds) {
           options.interval = std::chrono::milliseconds(std::lround(seconds * 1000));
         },
         "seconds between two looks (default 1)")
      ->check(daxfs::check_number(0.1, 3600))
      ->type_name("SECONDS");
  static const std::map<std::string, TopOrder> kOrders{{"pins", TopOrder::pins},
                                                       {"bytes", TopOrder::bytes},
                                                       {"waits", TopOrder::holds_up},
                                                       {"oldest", TopOrder::oldest}};
  top->add_option_function<std::string>(
         "--sort", [&options](const std::string& word) { options.order = kOrders.at(word); },
         "pins, bytes (default), waits or oldest: which holders come first")
      ->check([](const std::string& word) {
        return kOrders.contains(word) ? "" : "'" + word + "' is none of pins, bytes, waits, oldest";
      })
      ->type_name("KEY");
  top->add_option("--count", options.count, "end after so many looks")
      ->check(CLI::Range(1u, 1'000'000'000u).description(""))
      ->type_name("N");
}

// ADDRESS:PORT, ADDRESS or :PORT.
std::string read_place(const std::string& text, daxfs::ctl::ServeOptions& options) {
  const std::size_t colon = text.rfind(':');
  const bool six = !text.empty() && text.front() == '[';
  const bool has_port = colon != text.npos && (!six || text.rfind(']') < colon);
  std::string address = has_port ? text.substr(0, colon) : text;
  if (six && address.size() > 2) address = address.substr(1, address.size() - 2);
  if (!address.empty()) options.address = address;
  if (!has_port) return "";
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + colon + 1, end, options.port);
  if (error != std::errc() || rest != end || options.port < 0 || options.port > 65535) {
    return "'" + text + "' is no ADDRESS:PORT, such as 127.0.0.1:8080";
  }
  return "";
}

void add_serve(CLI::App& app, std::string& path, daxfs::ctl::ServeOptions& options) {
  CLI::App* const serve = app.add_subcommand(
      kServe, "shows all of it in a browser, while it happens; prints the address to open");
  serve->add_option("PATH", path, kAnyPath)->required();
  serve
      ->add_option("--listen",
                   "where to listen (default 127.0.0.1 and a free port); whoever can open the "
                   "printed address may do there what you may")
      ->check([&options](const std::string& text) { return read_place(text, options); })
      ->type_name("ADDRESS:PORT");
  serve->add_flag_callback(
      "--no-token", [&options] { options.token = false; },
      "every user of this machine may open it, and do there what you may");
}

void add_release(CLI::App& app, std::string& path, std::uint64_t& pin) {
  CLI::App* const release = app.add_subcommand(
      kRelease,
      "ends a pin of a former mount whose process cannot be seen: make sure that it has gone");
  release->add_option("PATH", path, kAnyPath)->required();
  release->add_option("--pin", pin, "its number, as `pins` shows it")
      ->required()
      ->check([](const std::string& text) {
        // CLI11 takes -1 for the largest number.
        std::uint64_t number = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
        const bool is_number = error == std::errc() && end == text.data() + text.size();
        return is_number ? "" : "'" + text + "' is not a pin's number";
      })
      ->type_name("ID");
}

int command(int argc, char** argv) {
  CLI::App app("Shows what a mounted daxfs is doing, and switches its policies.", "daxfsctl");
  app.failure_message(daxfs::usage_message);
  app.footer(
      "Root and the user who mounted see all pins, leases and requests; others see their own. Only "
      "root\n"
      "and that user may switch policies, see events and scrub.\n"
      "`policy PATH set defer` is short for pin_policy=defer. The settings are the mount options "
      "of\n"
      "the same names: daxfs --help explains them. PATH/.daxfs/ has all of this as files.\n"
      "A scrub finds the damage that fsck.daxfs finds, and differences between memory and pool. "
      "It\n"
      "repairs nothing. If a difference could destroy data, it stops all changes; status says so.\n"
      "Exit status: 0 done, 1 failed (for example: not on a daxfs mount), 2 usage, 4 a scrub has\n"
      "found damage.");
  app.set_version_flag("-V,--version", "daxfsctl " DAXFS_VERSION);
  app.require_subcommand(0, 1);  // none: see below; a wrong one is to be named
  std::string path;
  std::vector<std::string> change;
  bool json = false;
  add_views(app, path, change, json);
  add_scrub(app, path, json);
  std::uint64_t pin = 0;
  add_release(app, path, pin);
  daxfs::ctl::ServeOptions serve;
  add_serve(app, path, serve);
  daxfs::ctl::TopOptions top;
  add_top(app, path, top);
  app.add_flag("--json", json, "the same, before the command (not for top, serve and release)");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;
  }
  if (app.get_subcommands().empty()) {
    fmt::print(stderr, "daxfsctl: a command is missing, such as status; see daxfsctl --help\n");
    return kUsage;
  }

  for (const char* plain : {kTop, kServe, kRelease}) {
    if (!json || !app.got_subcommand(plain)) continue;
    fmt::print(stderr, "daxfsctl: {} prints no JSON; status, pins and waiting do\n", plain);
    return kUsage;
  }

  const auto settings = settings_of(change);
  if (!change.empty() && !settings) {
    fmt::print(stderr, "daxfsctl: policy PATH set SETTING...; see daxfsctl policy --help\n");
    return kUsage;
  }

  daxfs::Outcome<void> shown;
  bool clean = true;
  if (app.got_subcommand(kRelease)) shown = daxfs::ctl::release(path, pin);
  if (app.got_subcommand(kServe)) shown = daxfs::ctl::serve(path, serve);
  if (app.got_subcommand(kTop)) shown = daxfs::ctl::top(path, top);
  if (app.got_subcommand(kScrub)) {
    const auto scrubbed = daxfs::ctl::scrub(path, json);
    if (scrubbed) {
      clean = *scrubbed;
    } else {
      shown = std::unexpected(scrubbed.error());
    }
  }
  for (const Command& command : kCommands) {
    if (!app.got_subcommand(command.name)) continue;
    shown = settings ? daxfs::ctl::set_policy(path, *settings, json) : command.show(path, json);
  }
  if (!shown) {
    std::fflush(stdout);
    fmt::print(stderr, "daxfsctl: {}\n", shown.error().text);
    return kFailed;
  }
  if (std::fflush(stdout) != 0) {
    fmt::print(stderr, "daxfsctl: standard output: {}\n", std::strerror(errno));
    return kFailed;
  }
  return clean ? 0 : kDamaged;
}

}  // namespace

int main(int argc, char** argv) {
  daxfs::occupy_standard_streams();
  try {
    return command(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "daxfsctl: %s\n", error.what());
    return kFailed;
  }
}
