/* Prints the addresses of a name, one a line; 1 when there is none. Built with musl's and glibc's compilers. */
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
	if (argc != 2)
		return 64;
	int error = getaddrinfo(argv[1], NULL, &hints, &found);
	if (error) {
		fprintf(stderr, "%s\n", gai_strerror(error));
		return 1;
	}
	for (struct addrinfo *one = found; one; one = one->ai_next) {
		char text[NI_MAXHOST];
		if (getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST) == 0)
			printf("%s\n", text);
	}
	freeaddrinfo(found);
	return 0;
}
