//: doc 32 threads
#include "svc.h"
enum { THREADS = 32 };
#include "threads.h"
