// SPDX-License-Identifier: GPL-2.0-or-later
// Reads commands and runs them. The table below defines the protocol.

#include "bare.h"

#define LINE_BYTES 256

static command_fn do_ping, do_ticks;

static const struct command {
    const char *name;
    const char *arguments;      // one letter each: x = hex number, p = hex byte or "pattern"
    command_fn *run;
} commands[] = {
    { "ping", "", do_ping },
    { "ticks", "", do_ticks },
    { "read", "x", do_read },
    { "write", "xx", do_write },
    { "add", "xx", do_add },
    { "fill", "xxp", do_fill },
    { "sum", "xx", do_sum },
    { "touch", "xx", do_touch },
    { "exec", "x", do_exec },
    { "call", "x", do_call },
    { "call-on", "xx", do_call_on },
    { "loop", "xx", do_loop },
    { "churn", "xx", do_churn },
    { "tdcall", "xxxxxxxxxxx", do_tdcall },
    { "map-shared", "x", do_map_shared },
    { "pvalidate", "xxx", do_pvalidate },
    { "rmpadjust", "xxx", do_rmpadjust },
    { "rmpquery", "xxx", do_rmpquery },
    { "vmgexit", "x", do_vmgexit },
    { "vmcall", "xxxxx", do_vmcall },
    { "vmmcall", "xxxxx", do_vmmcall },
    { "hold", "x", do_hold },
    { "cpuid", "xx", do_cpuid },
    { "rdmsr", "x", do_rdmsr },
    { "wrmsr", "xx", do_wrmsr },
    { "watch-frame", "", do_watch_frame },
    { "outb", "xx", do_outb },
    { "inb", "x", do_inb },
    { "outl", "xx", do_outl },
    { "inl", "x", do_inl },
    { "fwcfg-dma", "xxxx", do_fwcfg_dma },
    { "edu-dma", "xxx", do_edu_dma },
    { "pci", "", do_pci },
    { "smp", "", do_smp },
    { "ap-loop", "x", do_ap_loop },
    { "ap-stop", "", do_ap_stop },
    { "attack", "xxxx", do_attack },
    { "reset", "", do_reset },
    { "crash", "", do_crash },
    { "off", "", do_off },
    { "exit", "x", do_exit },
};

// Answers the number of machine checks outside any probe: normally 0.
static void do_ping(const uint64_t *arg)
{
    (void)arg;
    answer_value(stray_machine_checks());
}

static void do_ticks(const uint64_t *arg)
{
    (void)arg;
    answer_value(ticks());
}

static bool same(const char *a, const char *b)
{
    for (; *a && *a == *b; a++, b++) {
    }
    return *a == *b;
}

// Splits @line at spaces. Returns the number of words, or @max + 1 if there are more than @max.
static unsigned split(char *line, char **words, unsigned max)
{
    unsigned count = 0;

    for (;;) {
        while (*line == ' ') {
            *line++ = '\0';
        }
        if (!*line) {
            return count;
        }
        if (count == max) {
            return max + 1;
        }
        words[count++] = line;
        while (*line && *line != ' ') {
            line++;
        }
    }
}

static int digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool parse_hex(const char *text, uint64_t *number)
{
    if (text[0] == '0' && (text[1] | 0x20) == 'x') {
        text += 2;
    }
    *number = 0;
    for (unsigned i = 0; text[i]; i++) {
        if (digit(text[i]) < 0 || i == 16) {
            return false;
        }
        *number = *number << 4 | (uint64_t)digit(text[i]);
    }
    return *text;
}

static bool arguments_fit(const char *letters, unsigned count)
{
    unsigned expected = 0;

    while (letters[expected]) {
        expected++;
    }
    return expected == count;
}

static void run_line(char *line)
{
    char *words[MAX_ARGS + 1];
    uint64_t arg[MAX_ARGS];
    unsigned count = split(line, words, MAX_ARGS + 1);
    const struct command *c = commands;

    if (count == 0) {
        answer_error("empty command");
        return;
    }
    while (!same(c->name, words[0])) {
        if (++c == commands + sizeof(commands) / sizeof(*commands)) {
            answer_error("unknown command");
            return;
        }
    }
    if (!arguments_fit(c->arguments, count - 1)) {
        answer_error("wrong number of arguments");
        return;
    }
    for (unsigned i = 0; i < count - 1; i++) {
        if (c->arguments[i] == 'p' && same(words[i + 1], "pattern")) {
            arg[i] = FILL_PATTERN;
        } else if (!parse_hex(words[i + 1], &arg[i])) {
            answer_error("not a hexadecimal number");
            return;
        }
    }
    c->run(arg);
}

// Runs all commands of the script, reports the status as the Linux agent does, and powers off.
static _Noreturn void run_script(const char *script, char *line)
{
    while (next_command(&script, line, LINE_BYTES)) {
        run_line(line);
    }
    answer_raw(all_went_well() ? "cvmlab exit 0\n" : "cvmlab exit 1\n");
    do_off(NULL);
    stop("the machine did not power off");
}

_Noreturn void boot_main(const struct start_info *info)
{
    static char line[LINE_BYTES];
    const char *script = script_of(info);

    traps_init();
    ports_init();
    put_text(LOG, "cvmlab bare-metal test guest\n");
    answer_raw("cvmlab hello bare-1\n");
    if (script) {
        run_script(script, line);
    }
    for (;;) {
        if (read_line(line, sizeof(line))) {
            run_line(line);
        } else {
            answer_error("the line is too long");
        }
    }
}
