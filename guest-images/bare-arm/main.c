// SPDX-License-Identifier: GPL-2.0-or-later
// A guest that does what it is told, a line at a time: see README.md.

#include "bare.h"

#define UART            0x9040000ull    // the second PL011 of QEMU's virt
#define UART_DATA       0x00
#define UART_FLAGS      0x18
#define UART_CONTROL    0x30
#define IS_EMPTY        (1 << 4)
#define IS_FULL         (1 << 5)
#define ENABLED         0x301

#define RSI_VERSION     0xc4000190
#define RSI_CONFIG      0xc4000196
#define RSI_1_0         0x10000
#define REGISTERS       11
#define RET             0xd65f03c0u
#define MAX_WORDS       14

struct fault fault;
static uint64_t uart = UART;
static uint64_t config[PAGE / 8] __attribute__((aligned(PAGE)));

static volatile uint32_t *reg(uint64_t offset)
{
    return (volatile uint32_t *)(uart + offset);
}

static void put(char c)
{
    while (*reg(UART_FLAGS) & IS_FULL) {
    }
    *reg(UART_DATA) = (uint8_t)c;
}

static void say(const char *text)
{
    while (*text) {
        put(*text++);
    }
}

static void say_number(uint64_t value)
{
    int shift = 60;

    while (shift && !(value >> shift)) {
        shift -= 4;
    }
    for (put(' '); shift >= 0; shift -= 4) {
        put("0123456789abcdef"[value >> shift & 15]);
    }
}

static char get(void)
{
    while (*reg(UART_FLAGS) & IS_EMPTY) {
    }
    return (char)*reg(UART_DATA);
}

static int same(const char *a, const char *b)
{
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

// What a guarded function gets and leaves.
struct work {
    uint64_t in[REGISTERS], out[REGISTERS];
    int outs;
};

static void do_read(void *opaque)
{
    struct work *work = opaque;

    work->out[0] = *(volatile uint64_t *)work->in[0];
    work->outs = 1;
}

static void do_write(void *opaque)
{
    struct work *work = opaque;

    *(volatile uint64_t *)work->in[0] = work->in[1];
}

// Store a function that returns, where in[0] says, and call it at in[1].
static void do_exec(void *opaque)
{
    struct work *work = opaque;

    if (work->in[0]) {
        *(volatile uint32_t *)work->in[0] = RET;
        __asm__ volatile("dsb ish\n ic iallu\n dsb ish\n isb" ::: "memory");
    }
    ((void (*)(void))work->in[1])();
}

static void do_registers(struct work *work, void (*call)(void *))
{
    for (int i = 0; i < REGISTERS; i++) {
        work->out[i] = work->in[i];
    }
    call(work->out);
    work->outs = REGISTERS;
}

static void do_smc(void *opaque)
{
    do_registers(opaque, call_smc);
}

static void do_hvc(void *opaque)
{
    do_registers(opaque, call_hvc);
}

static void do_map(void *opaque)
{
    struct work *work = opaque;

    map(work->in[0], work->in[1], work->in[2]);
}

// Forget what the TLB has.
static void do_flush(void *opaque)
{
    (void)opaque;
    __asm__ volatile("dsb ish\n tlbi vmalle1\n dsb ish\n isb" ::: "memory");
}

static void do_config(void *opaque)
{
    struct work *work = opaque;

    for (int i = 0; i < REGISTERS; i++) {
        work->out[i] = config[(work->in[0] + i) % (PAGE / 8)];
    }
    work->out[0] = (uint64_t)config;
    work->out[1] = config[0];
    work->out[2] = config[1];
    work->outs = 3;
}

static void do_edu(void *opaque)
{
    struct work *work = opaque;

    work->out[0] = (uint64_t)edu_dma(uart & ~UART, work->in[0], work->in[1], work->in[2]);
    work->outs = 1;
}

static const struct {
    const char *name;
    void (*run)(void *);
} commands[] = {
    { "read", do_read }, { "write", do_write }, { "exec", do_exec },
    { "smc", do_smc }, { "hvc", do_hvc }, { "map", do_map },
    { "flush", do_flush }, { "config", do_config }, { "edu-dma", do_edu },
};

static uint64_t number(const char *text)
{
    uint64_t value = 0;

    if (text[0] == '0' && text[1] == 'x') {
        text += 2;
    }
    for (; *text; text++) {
        value = value << 4 | (uint64_t)(*text <= '9' ? *text - '0' : *text - 'a' + 10);
    }
    return value;
}

static void answer(char *words[], int count)
{
    struct work work = { 0 };

    for (int i = 1; i < count && i <= REGISTERS; i++) {
        work.in[i - 1] = number(words[i]);
    }
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (!same(commands[i].name, words[0])) {
            continue;
        }
        if (guard(commands[i].run, &work)) {
            say("fault");
            say_number(fault.esr >> 26 & 0x3f);
            say_number(fault.esr & 0x1ffffff);
            say_number(fault.elr);
            say_number(fault.far);
            say_number(0);
        } else {
            say("ok");
            for (int out = 0; out < work.outs; out++) {
                say_number(work.out[out]);
            }
        }
        say("\n");
        return;
    }
    say("error unknown command\n");
}

static void serve(void)
{
    static char line[512];
    char *words[MAX_WORDS];
    int count = 0, length = 0;

    for (;;) {
        char c = get();

        if (length >= (int)sizeof(line) - 1) {
            length = (int)sizeof(line) - 2;     // no command is as long
        }
        if (c != '\n' && c != ' ') {
            line[length++] = c;
            continue;
        }
        line[length] = 0;
        if (length && line[length - 1] && count < MAX_WORDS) {
            int start = length;

            while (start && line[start - 1]) {
                start--;
            }
            words[count++] = line + start;
        }
        length++;
        if (c == '\n') {
            if (count) {
                answer(words, count);
            }
            count = length = 0;
        }
    }
}

// In a realm a device is at its address with the top bit.
static void find_uart(void)
{
    struct work work = { .in = { RSI_VERSION, RSI_1_0 } };

    if (guard(do_smc, &work) || work.out[0]) {
        return;
    }
    work.in[0] = RSI_CONFIG;
    work.in[1] = (uint64_t)config;
    if (!guard(do_smc, &work) && !work.out[0]) {
        uart |= 1ull << (config[0] - 1);
    }
}

void main(void);

void main(void)
{
    find_uart();
    *reg(UART_CONTROL) = ENABLED;
    say("cvmlab hello bare-1\n");
    serve();
}
