/* host.h - hosts.h under its earlier name (core has a host.h too). */
#include "hosts.h"
#define host_open host_solo
