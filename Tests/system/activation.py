"""What a service manager does with sockets: it makes them once, and hands them to each process that it starts."""
import fcntl
import os
import socket
import subprocess

FIRST = 3


class HeldSockets:
    """Listening sockets by name, as the .socket units of Deploy/systemd have systemd hold them."""

    def __init__(self, **addresses):
        self.sockets = {name: socket.create_server((host, int(port)), backlog=4096)
                        for name, (host, port) in ((name, text.rsplit(":", 1)) for name, text in addresses.items())}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def address(self, name):
        return "{}:{}".format(*self.sockets[name].getsockname())

    def popen(self, command, environment, names=None, count=None, process=None, **options):
        """Starts a process that is told of them (sd_listen_fds(3)); the last three say what is not true."""
        held = [one.fileno() for one in self.sockets.values()]

        def hand_over():
            # Out of the way of the numbers that they are to have.
            moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST + len(held)) for fd in held]
            for number, fd in enumerate(moved):
                os.dup2(fd, FIRST + number)
            os.environ.update(environment)
            os.environ["LISTEN_PID"] = str(os.getpid() if process is None else process)
            os.environ["LISTEN_FDS"] = str(len(held) if count is None else count)
            os.environ["LISTEN_FDNAMES"] = ":".join(self.sockets) if names is None else names

        return subprocess.Popen([str(part) for part in command], preexec_fn=hand_over, close_fds=False, **options)

    def close(self):
        for one in self.sockets.values():
            one.close()
