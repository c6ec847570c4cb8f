//! What the module `guest` does not have yet.

pub(crate) mod initramfs {
    use std::io;
    use std::path::{Path, PathBuf};

    pub(crate) const FORMAT: &str = "0";

    pub(crate) fn build(workspace: &Path, _modules: Option<&Path>, into: &Path) -> io::Result<PathBuf> {
        std::fs::copy(workspace, into)?;
        Ok(into.to_owned())
    }
}

pub(crate) fn kernel_args() -> String {
    String::new()
}

pub(crate) mod control {
    use std::io;

    use clarateach_runtime::BoxedSeatStream;
    use clarateach_seatproto::guest::{GuestConfig, GuestReply, GuestRequest, GuestState, MAX_LINE};
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

    pub(crate) struct Control(BufReader<BoxedSeatStream>);

    impl Control {
        pub(crate) fn new(stream: BoxedSeatStream) -> Self {
            Self(BufReader::new(stream))
        }

        pub(crate) async fn hello(&mut self) -> io::Result<GuestState> {
            self.ask(&GuestRequest::Hello).await
        }

        pub(crate) async fn configure(&mut self, config: GuestConfig) -> io::Result<GuestState> {
            self.ask(&GuestRequest::Configure(Box::new(config))).await
        }

        async fn ask(&mut self, request: &GuestRequest) -> io::Result<GuestState> {
            let mut line = serde_json::to_vec(request)?;
            line.push(b'\n');
            self.0.write_all(&line).await?;
            let mut answer = String::new();
            (&mut self.0).take(MAX_LINE as u64).read_line(&mut answer).await?;
            match serde_json::from_str(&answer) {
                Ok(GuestReply::Ok { state }) => Ok(state),
                Ok(GuestReply::Error { message }) => Err(io::Error::other(message)),
                Err(error) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, error.to_string())),
            }
        }
    }
}
