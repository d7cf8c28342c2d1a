/* Preloaded into counterparts that have no option for the address they listen on (Debian's Orthanc, dcmtk's storescp):
 * what would listen on every address listens on 127.0.0.1, and the program ends with the test process that started it. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((constructor)) static void end_with_parent(void) { prctl(PR_SET_PDEATHSIG, SIGKILL); }

int bind(int descriptor, const struct sockaddr *address, socklen_t length) {
  struct sockaddr_in loopback;
  if (address->sa_family == AF_INET6) {
    errno = EAFNOSUPPORT;
    return -1;
  }
  if (address->sa_family == AF_INET && length >= sizeof loopback) {
    memcpy(&loopback, address, sizeof loopback);
    if (loopback.sin_addr.s_addr == htonl(INADDR_ANY)) loopback.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return syscall(SYS_bind, descriptor, &loopback, sizeof loopback);
  }
  return syscall(SYS_bind, descriptor, address, length);
}
