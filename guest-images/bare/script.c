// SPDX-License-Identifier: GPL-2.0-or-later
// Commands on the kernel command line: the text after " -- ", separated by ';'.
// A command "--" ends the list, because cvmlab may append more words to the line.

#include "bare.h"

#define PVH_MAGIC 0x336ec578u   // "xEn3" with bit 7 of the E set

const char *script_of(const struct start_info *info)
{
    const char *text;

    if (!info || info->magic != PVH_MAGIC || !info->command_line) {
        return NULL;
    }
    for (text = (const char *)info->command_line; *text; text++) {
        if (text[0] == ' ' && text[1] == '-' && text[2] == '-' && text[3] == ' ') {
            return text + 4;
        }
    }
    return NULL;
}

bool next_command(const char **script, char *line, size_t size)
{
    const char *from = *script;
    size_t length = 0;

    while (*from == ' ' || *from == ';') {
        from++;
    }
    if (!*from || (from[0] == '-' && from[1] == '-')) {
        return false;
    }
    while (*from && *from != ';' && length + 1 < size) {
        line[length++] = *from++;
    }
    line[length] = '\0';
    *script = from;
    return true;
}
