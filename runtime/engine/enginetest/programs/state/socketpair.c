//: doc a stream socket pair inside the service: the state is what is in it
#include "svc.h"
#define PAIR_TYPES SOCK_STREAM
#include "pairs.h"
