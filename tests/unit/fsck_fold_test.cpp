// Findings that repeat are one line with ranges, and nothing that differs is lost in it.
#include "tests/unit/catch.h"
#include "tools/fsck/fold.h"

using daxfs::fold;
using daxfs::fsck::Code;
using daxfs::fsck::Finding;
using daxfs::fsck::Severity;

namespace {

Finding finding(std::string object, std::string text, bool fixed = true,
                Severity severity = Severity::loss) {
  return {Code::inode_record, severity, std::move(object), std::move(text), fixed};
}

std::vector<std::string> lines(const std::vector<Finding>& findings) {
  std::vector<std::string> out;
  for (const auto& line : fold(findings)) {
    out.push_back(line.object + ": " + line.text + " x" + std::to_string(line.times));
  }
  return out;
}

using Lines = std::vector<std::string>;

}  // namespace

TEST_CASE("fsck fold: the same of many objects is one line, wherever it was found") {
  CHECK(lines({finding("inode 7", "gone"), finding("inode 8", "gone"), finding("root", "odd"),
               finding("inode 9", "gone"), finding("inode 12", "gone")}) ==
        Lines{"inode 7-9, 12: gone x4", "root: odd x1"});
  CHECK(lines({finding("inode 7", "gone")}) == Lines{"inode 7: gone x1"});
  CHECK(lines({}).empty());
}

TEST_CASE("fsck fold: a text that repeats its object's number goes along") {
  CHECK(lines({finding("inode 7", "put into /lost+found as #7"),
               finding("inode 8", "put into /lost+found as #8")}) ==
        Lines{"inode 7-8: put into /lost+found as #7-8 x2"});
}

TEST_CASE("fsck fold: places in one object are folded as well") {
  CHECK(lines({finding("inode 7", "its block 0 is odd"), finding("inode 7", "its block 2 is odd"),
               finding("inode 7", "its block 3 is odd")}) ==
        Lines{"inode 7: its block 0, 2-3 is odd x3"});
  CHECK(lines({finding("inode 7", "odd"), finding("inode 7", "odd")}) == Lines{"inode 7: odd x2"});
  CHECK(lines({finding("pool state", "odd"), finding("pool state", "odd")}) ==
        Lines{"pool state: odd x2"});
}

TEST_CASE("fsck fold: what differs in more than a number stays apart") {
  CHECK(fold({finding("inode 7", "gone"), finding("inode 8", "gone", false)}).size() == 2);
  CHECK(
      fold({finding("inode 7", "a"), finding("inode 8", "a", true, Severity::repairable)}).size() ==
      2);
  CHECK(fold({finding("inode 7", "has 3"), finding("inode 8", "has 4")}).size() == 2);
  CHECK(fold({finding("inode 7", "a"), finding("lane 8", "a")}).size() == 2);
}

TEST_CASE("fsck fold: names are no numbers") {
  CHECK(fold({finding("inode 2", "the entry \"f1\" is lost"),
              finding("inode 2", "the entry \"f2\" is lost")})
            .size() == 2);
  CHECK(lines({finding("inode 3", "the entry \"3\" is lost"),
               finding("inode 4", "the entry \"3\" is lost")}) ==
        Lines{"inode 3-4: the entry \"3\" is lost x2"});
}

TEST_CASE("fsck fold: a line has few ranges, and none is lost") {
  std::vector<Finding> findings;
  for (int i = 0; i < 40; ++i)
    findings.push_back(finding("inode " + std::to_string(2 * i), "gone"));
  const auto folded = fold(findings);
  REQUIRE(folded.size() == 3);
  CHECK(folded[0].times + folded[1].times + folded[2].times == 40);
  CHECK(folded[2].object == "inode 64, 66, 68, 70, 72, 74, 76, 78");
}

TEST_CASE("fsck fold: numbers that are too long are text") {
  const std::string object = "inode 123456789012345678901234567890";
  CHECK(lines({finding(object, "gone"), finding(object, "gone")}) == Lines{object + ": gone x2"});
}
