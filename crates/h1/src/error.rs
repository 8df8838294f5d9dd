//! What can be wrong with a message.

use std::fmt;

use http::StatusCode;

/// What is wrong with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// More bytes than the limit.
    TooLarge,
    /// More headers than the limit.
    TooManyHeaders,
    /// A line that does not end in CR LF, or a stray CR or LF.
    LineEnd,
    /// The request line or status line.
    StartLine,
    /// A method that is none, or that nobody knows.
    Method,
    /// A request target of none of the four forms, or of one the method does not take.
    Target,
    /// Another version than 1.0 and 1.1.
    Version,
    /// A header's name or value.
    Header,
    /// HTTP/1.1 without `Host`.
    NoHost,
    /// Several `Host`.
    ManyHosts,
    /// `Content-Length` that is no number, too large, or several.
    ContentLength,
    /// `Content-Length` beside `Transfer-Encoding`.
    LengthAndCoding,
    /// A transfer coding other than `chunked` alone.
    Coding,
    /// `Transfer-Encoding` in HTTP/1.0.
    CodingInVersion10,
}

/// What is wrong with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// A chunk's size is no number of up to 16 hexadecimal digits, or too large.
    ChunkSize,
    /// A chunk does not end, or its size line does not, where and as it must.
    ChunkEnd,
    /// Chunk extensions beyond the limit.
    Extensions,
    /// Trailers that are malformed.
    Trailers,
    /// Trailers beyond the limits.
    TrailersTooLarge,
    /// The connection ended before the body did.
    Cut,
}

impl HeadError {
    /// The status Envoy refuses such a request with.
    pub fn status(self) -> StatusCode {
        match self {
            HeadError::TooLarge | HeadError::TooManyHeaders => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            HeadError::Coding => StatusCode::NOT_IMPLEMENTED,
            HeadError::Version | HeadError::CodingInVersion10 => StatusCode::UPGRADE_REQUIRED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// One word or two for logs; stable.
    pub fn as_str(self) -> &'static str {
        match self {
            HeadError::TooLarge => "headers_too_large",
            HeadError::TooManyHeaders => "too_many_headers",
            HeadError::LineEnd => "line_end",
            HeadError::StartLine => "start_line",
            HeadError::Method => "method",
            HeadError::Target => "target",
            HeadError::Version => "version",
            HeadError::Header => "header",
            HeadError::NoHost => "missing_host",
            HeadError::ManyHosts => "several_hosts",
            HeadError::ContentLength => "content_length",
            HeadError::LengthAndCoding => "content_length_and_transfer_encoding",
            HeadError::Coding => "unsupported_transfer_encoding",
            HeadError::CodingInVersion10 => "transfer_encoding_in_http_1_0",
        }
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for HeadError {}

impl BodyError {
    /// One word or two for logs; stable.
    pub fn as_str(self) -> &'static str {
        match self {
            BodyError::ChunkSize => "chunk_size",
            BodyError::ChunkEnd => "chunk_end",
            BodyError::Extensions => "chunk_extensions",
            BodyError::Trailers => "trailers",
            BodyError::TrailersTooLarge => "trailers_too_large",
            BodyError::Cut => "cut_off",
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for BodyError {}
