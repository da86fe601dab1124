// SPDX-License-Identifier: GPL-2.0-or-later
// Text on the two serial ports. COM1 is for people, COM2 carries the protocol.

#include "bare.h"

#define UART_IER 1
#define UART_FCR 2
#define UART_LCR 3
#define UART_MCR 4
#define LSR_DATA_READY 0x01
#define WAIT_SENDER 1000000     // polls before the byte is sent regardless

void ports_init(void)
{
    const enum port ports[] = { LOG, AGENT };

    for (unsigned i = 0; i < 2; i++) {
        out8(ports[i] + UART_LCR, 0x80);
        out8(ports[i] + UART_DATA, 1);          // 115200 baud
        out8(ports[i] + UART_IER, 0);
        out8(ports[i] + UART_LCR, 0x03);        // 8 bits, no parity
        out8(ports[i] + UART_FCR, 0x01);        // FIFOs on; keep their contents
        out8(ports[i] + UART_MCR, 0x0b);        // DTR, RTS, interrupt gate
    }
    out8(AGENT + UART_IER, 0x01);               // interrupt on received data
}

static void put_byte(enum port port, char byte)
{
    for (unsigned i = 0; i < WAIT_SENDER; i++) {
        if (in8(port + UART_LSR) & LSR_SENDER_EMPTY) {
            break;
        }
    }
    out8(port + UART_DATA, (uint8_t)byte);
}

void put_text(enum port port, const char *text)
{
    for (; *text; text++) {
        put_byte(port, *text);
    }
}

void put_number(enum port port, uint64_t number)
{
    unsigned shift = 60;

    put_text(port, "0x");
    while (shift && !(number >> shift)) {
        shift -= 4;
    }
    for (;; shift -= 4) {
        put_byte(port, "0123456789abcdef"[(number >> shift) & 15]);
        if (!shift) {
            return;
        }
    }
}

bool byte_waiting(enum port port)
{
    return in8(port + UART_LSR) & LSR_DATA_READY;
}

// An idle guest sleeps. STI takes effect after the next instruction, so an
// interrupt cannot arrive between STI and HLT and be missed.
static char get_byte(void)
{
    while (!byte_waiting(AGENT)) {
        __asm__ volatile("sti; hlt; cli" : : : "memory");
    }
    return (char)in8(AGENT + UART_DATA);
}

bool read_line(char *line, size_t size)
{
    size_t length = 0;
    bool fits = true;

    for (;;) {
        char byte = get_byte();

        if (byte == '\n') {
            line[length] = '\0';
            return fits;
        }
        if (byte == '\r') {
            continue;
        }
        if (length + 1 < size) {
            line[length++] = byte;
        } else {
            fits = false;
        }
    }
}

static bool went_wrong;

bool all_went_well(void)
{
    return !went_wrong;
}

void answer_ok(unsigned count, const uint64_t *values)
{
    put_text(AGENT, "ok");
    for (unsigned i = 0; i < count; i++) {
        put_text(AGENT, " ");
        put_number(AGENT, values[i]);
    }
    put_text(AGENT, "\n");
}

void answer_value(uint64_t value)
{
    answer_ok(1, &value);
}

void answer_done(void)
{
    answer_ok(0, NULL);
}

void answer_fault(const struct fault *fault)
{
    const uint64_t *field = &fault->vector;
    unsigned count = fault->vector == 18 ? 10 : 5;

    went_wrong = true;
    put_text(AGENT, "fault");
    for (unsigned i = 0; i < count; i++) {
        put_text(AGENT, " ");
        put_number(AGENT, field[i]);
    }
    put_text(AGENT, "\n");
}

void answer_error(const char *sentence)
{
    went_wrong = true;
    put_text(AGENT, "error ");
    put_text(AGENT, sentence);
    put_text(AGENT, "\n");
}

void answer_raw(const char *text)
{
    put_text(AGENT, text);
}
