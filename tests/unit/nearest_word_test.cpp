#include "base/nearest_word.h"

#include <string>
#include <vector>

#include "src/options.h"
#include "tests/unit/catch.h"
#include "tools/usage.h"

namespace daxfs {
namespace {

TEST_CASE("the distance of two words counts letters put in, left out, replaced and swapped") {
  CHECK(distance("", "") == 0);
  CHECK(distance("", "abc") == 3);
  CHECK(distance("pins", "pins") == 0);
  CHECK(distance("pin", "pins") == 1);
  CHECK(distance("pisn", "pins") == 1);
  CHECK(distance("bins", "pins") == 1);
  CHECK(distance("limbo", "leases") == 5);
}

TEST_CASE("a mistyped word names the nearest, and nothing where none is near") {
  const std::vector<std::string> words{"pins", "leases", "limbo", "policy"};
  CHECK(did_you_mean("pin", words) == "; did you mean 'pins'?");
  CHECK(did_you_mean("polcy", words) == "; did you mean 'policy'?");
  CHECK(did_you_mean("xyzzy", words).empty());
  CHECK(did_you_mean("", words).empty());
}

TEST_CASE("a mistyped mount option names the nearest") {
  const auto parsed = parse_mount_options("rw,pin_polcy=defer");
  REQUIRE_FALSE(parsed);
  CHECK(parsed.error().text.find("did you mean 'pin_policy'?") != std::string::npos);
  const auto flag = parse_mount_options("unsafe_deno");
  REQUIRE_FALSE(flag);
  CHECK(flag.error().text.find("did you mean 'unsafe_demo'?") != std::string::npos);
  const auto none = parse_mount_options("frobnicate");
  REQUIRE_FALSE(none);
  CHECK(none.error().text.find("did you mean") == std::string::npos);
}

// What a command with these options says to the words.
std::string complaint(std::vector<std::string> words) {
  CLI::App app("", "command");
  bool flag = false;
  std::string path;
  app.require_subcommand(0, 1);
  app.add_flag("--allocate", flag);
  app.add_subcommand("pins")->add_flag("--json", flag);
  app.add_subcommand("limbo");
  std::reverse(words.begin(), words.end());
  try {
    app.parse(words);
  } catch (const CLI::ParseError& error) {
    return usage_message(&app, error);
  }
  return "";
}

TEST_CASE("a mistyped option or subcommand names the nearest") {
  CHECK(complaint({"--alocate"}).find("did you mean '--allocate'?") != std::string::npos);
  CHECK(complaint({"pinz"}).find("did you mean 'pins'?") != std::string::npos);
  CHECK(complaint({"pins", "--jsno"}).find("did you mean '--json'?") != std::string::npos);
  CHECK(complaint({"frobnicate"}).find("did you mean") == std::string::npos);
  CHECK(complaint({"frobnicate"}).find("see command --help") != std::string::npos);
  CHECK(complaint({"pins"}).empty());
}

}  // namespace
}  // namespace daxfs
