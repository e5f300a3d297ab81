"""What the commands in tools/ that are Python share: wrong usage is told in one line, with the word that may have been meant."""

import argparse
import difflib
import re
import sys

# argparse has no other way to say which word it was.
NOT_UNDERSTOOD = re.compile(r"invalid choice: '([^']*)'|unrecognized arguments: (\S+)|'(\w+)' is not one of")


class Parser(argparse.ArgumentParser):
    """As argparse's, but for what it says of wrong usage."""

    def __init__(self, **how):
        super().__init__(allow_abbrev=False, **how)
        self.values = []  # of options that take one of a few words

    def words(self):
        for action in self._actions:
            if action.help is not argparse.SUPPRESS:
                yield from action.option_strings
                yield from action.choices or ()
        yield from self.values

    def hint(self, message):
        known = list(self.words())
        # An unknown option's value may be what argparse complains about.
        options = [word.split("=")[0] for word in sys.argv[1:] if word.startswith("--")]
        unknown = [word for word in options if word not in known]
        found = NOT_UNDERSTOOD.search(message)
        for word in [*unknown, *(filter(None, found.groups()) if found else ())]:
            near = difflib.get_close_matches(word, known, n=1)
            if near and near[0] != word:
                return f"; did you mean {near[0]}?"
        return "."

    def error(self, message):
        name = self.prog.rpartition("/")[2]
        self.exit(2, f"{name}: {message}{self.hint(message)} See {self.prog} --help\n")
