//: doc datagram and seqpacket socket pairs: what is in them, datagram by datagram
#include "svc.h"
#define PAIR_TYPES SOCK_DGRAM, SOCK_SEQPACKET
#include "pairs.h"
