//! The bookstore demo of Open Service Mesh: who buys books, who steals them, who sells them, who restocks them, and the database
//! that counts them. Names, ports, pages, headers and environment variables are those of upstream's programs.

pub mod buyer;
mod client;
pub mod database;
mod page;
pub mod store;
mod tally;
pub mod warehouse;

/// Port of every program of the demo but the database.
const PORT: u16 = 14001;

/// Header of an answer: which bookstore it is from.
const IDENTITY: &str = "identity";

/// Header of an answer: how many books that bookstore has sold.
const BOOKS_BOUGHT: &str = "booksbought";

/// What a program prints when all is as it was told to expect; upstream's scripts look for it in the log.
const SUCCESS: &str = "MAESTRO! THIS TEST SUCCEEDED!";

/// What a program prints when it tried as often as it may.
const FAILURE: &str = "MAESTRO, WE HAVE A PROBLEM! THIS TEST FAILED!";
