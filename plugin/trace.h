#include "trace/trace-hw_restricted_memory.h"
